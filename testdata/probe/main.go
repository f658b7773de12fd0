// Command probe is the smallest program that tests need inside an image: it says words, serves a
// text over HTTP, sleeps, or ends with a code.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe say WORD... | serve ADDR TEXT | files ADDR DIR | show FILE... | ask NAME | get URL | "+
			"hammer URL CONNECTIONS | sink ADDR | flood ADDR MIB | connect ADDR TIMES | sleep | deaf | exit CODE | cat | arch | uid")
		os.Exit(2)
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "say":
		fmt.Println(strings.Join(args, " "))
	case "arch":
		fmt.Println(runtime.GOARCH)
	case "uid":
		fmt.Println(os.Geteuid())
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "serve":
		serve(args[0], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, os.ExpandEnv(args[1]), runtime.GOARCH)
		}))
	case "show": // files, with their owners and modes
		for _, name := range args {
			var st syscall.Stat_t
			said(syscall.Stat(name, &st))
			text, err := os.ReadFile(name)
			said(err)
			fmt.Printf("%d %d %o %s\n", st.Uid, st.Gid, st.Mode&0o777, text)
		}
	case "files":
		serve(args[0], http.FileServer(http.Dir(args[1])))
	case "ask":
		found, err := net.LookupHost(args[0])
		said(err)
		slices.Sort(found)
		fmt.Println(strings.Join(found, " "))
	case "get":
		res, err := (&http.Client{Timeout: 5 * time.Second}).Get(args[0])
		said(err)
		_, _ = io.Copy(os.Stdout, res.Body)
	case "hammer":
		connections, _ := strconv.Atoi(args[1])
		hammer(args[0], connections)
	case "sink":
		sink(args[0])
	case "flood":
		n, _ := strconv.Atoi(args[1])
		flood(args[0], n)
	case "connect":
		n, _ := strconv.Atoi(args[1])
		connects(args[0], n)
	case "deaf":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		time.Sleep(time.Hour)
	case "sleep":
		sleep()
	}
}

// serve answers until it is told to stop.
func serve(address string, h http.Handler) {
	server := &http.Server{Addr: address, Handler: h}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			said(err)
		}
	}()
	fmt.Println("serving")
	sleep()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(ctx) // what has begun is answered
}

// hammer asks an address by many connections at once until it is told to stop, and says how often that failed.
func hammer(url string, connections int) {
	var asked, failed atomic.Int64
	var first sync.Once
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	for range connections {
		go func() {
			for {
				asked.Add(1)
				res, err := client.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err != nil {
					failed.Add(1)
					first.Do(func() { fmt.Println(err) })
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	fmt.Println("hammering")
	sleep()
	fmt.Println("asked", asked.Load(), "failed", failed.Load())
}

// said ends the program after an error.
func said(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sink takes all that comes, and says when it has come.
func sink(address string) {
	l, err := net.Listen("tcp", address)
	said(err)
	for {
		c, err := l.Accept()
		said(err)
		go func() {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

// flood sends so many MiB to a sink, and prints how long that has taken.
func flood(address string, n int) {
	began, chunk := time.Now(), make([]byte, 1<<20)
	c, err := net.Dial("tcp", address)
	said(err)
	for range n {
		_, err := c.Write(chunk)
		said(err)
	}
	said(c.(*net.TCPConn).CloseWrite())
	_, _ = io.Copy(io.Discard, c)
	fmt.Println(time.Since(began))
}

// connects opens connections to a sink, one after the other, and prints how long that has taken.
func connects(address string, times int) {
	began := time.Now()
	for range times {
		c, err := net.Dial("tcp", address)
		said(err)
		said(c.(*net.TCPConn).CloseWrite())
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	fmt.Println(time.Since(began))
}

// sleep lasts until SIGTERM, which PID 1 gets only when it asks for it.
func sleep() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	<-c
}
