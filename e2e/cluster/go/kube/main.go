// Command vernal-kube holds the components of one Kubernetes release in one binary.
// It acts as the component that it is called by (argv[0] of a link to it) or that its first argument names.
// One binary, because the components share most of their code: linked once, they compile in minutes.
//
// Built with the tag apiserver_only, it holds what this file names and nothing of node.go: enough to run tests
// against the API server of another release, at a third of the compiling.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

var components = map[string]func(){
	"etcd":           func() { etcdmain.Main(os.Args) },
	"kube-apiserver": server(apiserver.NewAPIServerCommand),
	"certs":          runCerts,
}

func main() {
	run, ok := components[filepath.Base(os.Args[0])]
	if !ok && len(os.Args) > 1 {
		run, ok = components[os.Args[1]]
		os.Args = os.Args[1:]
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: vernal-kube {%s} ...\n", strings.Join(names(), "|"))
		os.Exit(2)
	}
	run()
}

func names() []string {
	var all []string
	for name := range components {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

func server(command func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(command())) }
}
