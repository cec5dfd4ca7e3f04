// Command pod is all that the cluster's own images hold.
//
//	pod              the pause container: sleeps, and reaps what is reparented to it, until it is told to stop
//	pod serve PORT   answers every request with its host name; the cluster's own tests use it
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	pause()
}

func pause() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
}

func serve(port string) {
	host, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod serve:", err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	fmt.Fprintln(os.Stderr, "pod serve:", http.ListenAndServe(":"+port, nil))
	os.Exit(1)
}
