// Agent runs shell scripts in a virtual machine of the tests: POST / has a script as its body and answers
// with what it prints, on both streams, and its exit code in the trailer Exit-Code.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

func main() {
	http.HandleFunc("POST /", run)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":7", nil))
	os.Exit(1)
}

func run(w http.ResponseWriter, r *http.Request) {
	script, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Trailer", "Exit-Code")
	cmd := exec.Command("/bin/sh", "-c", string(script))
	cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = time.Second // a script may leave somebody behind who holds its output
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		fmt.Fprintln(w, err)
		w.Header().Set("Exit-Code", "255")
		return
	}
	w.Header().Set("Exit-Code", strconv.Itoa(cmd.ProcessState.ExitCode()))
}
