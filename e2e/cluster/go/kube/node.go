//go:build !apiserver_only

package main

import (
	"context"
	"os"
	_ "time/tzdata" // time zones of CronJobs, on machines without tzdata

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func init() {
	components["kube-controller-manager"] = server(controllermanager.NewControllerManagerCommand)
	components["kube-scheduler"] = server(func() *cobra.Command { return scheduler.NewSchedulerCommand() })
	components["kube-proxy"] = server(proxy.NewProxyCommand)
	components["kubelet"] = server(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) })
	components["kubectl"] = runKubectl
}

func runKubectl() {
	// kubectl reads its verbosity before cobra parses flags, as its own main does.
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)) //nolint:errcheck
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}
