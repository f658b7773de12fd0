package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostile are archives that want to write outside, or more than there is.
func hostile(t *testing.T, outside string) map[string][]byte {
	t.Helper()
	make := func(entries ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			if h.Mode == 0 {
				h.Mode = 0o755
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				fmt.Fprint(w, "evil")
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	up := strings.Repeat("../", 30) + strings.TrimPrefix(outside, "/")
	return map[string][]byte{
		"parents":        make(file(up + "/evil")),
		"absolute":       make(file(outside + "/evil")),
		"symlink":        make(link("l", outside), file("l/evil")),
		"chained links":  make(link("a", ".."), link("b", "a/.."), link("c", "b/../../../../.."+outside), file("c/evil")),
		"parents' link":  make(link("l", up), file("l/evil")),
		"hard link":      make(tar.Header{Name: "h", Linkname: outside + "/mine", Typeflag: tar.TypeLink}, file("h")),
		"hard link up":   make(tar.Header{Name: "h", Linkname: up + "/mine", Typeflag: tar.TypeLink}, file("h")),
		"device":         make(tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 7, Devminor: 0}, file("d")),
		"pipe":           make(tar.Header{Name: "p", Typeflag: tar.TypeFifo}),
		"empty name":     make(file("")),
		"name of a root": make(tar.Header{Name: "/", Typeflag: tar.TypeSymlink, Linkname: outside}, file("evil")),
		"long name":      make(file(strings.Repeat("x/", 3000) + "evil")),
		"sparse bomb":    sparseBomb,
		"cut":            make(file("f"))[:700],
	}
}

// sparseBomb is a file of an exabyte without data (GNU tar's oldest sparse format).
var sparseBomb = func() []byte {
	h := make([]byte, 512)
	copy(h, "bomb")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(h[257:], "ustar  \x00")
	h[483] = 0x80 // the real size, in base 256
	h[487] = 0x10
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(h, make([]byte, 1024)...)
}()

// Archives by which one could write outside, or more than there is, do neither, whichever way they come in. What is said of
// them is the client's fault, or nothing at all where it does no harm.
func TestHostileArchives(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("create", "--name", "box", "debian:bookworm-slim", "true")
	socket := g.status().Socket
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, data := range hostile(t, outside) {
		for door, path := range map[string]string{
			"cp": "PUT /containers/box/archive?path=/srv", "load": "POST /images/load", "import": "POST /images/create?fromSrc=-&repo=evil",
			"build": "POST /build",
		} {
			if door == "build" {
				data = withDockerfile(t, data)
			}
			status, said := send(t, socket, path, data)
			if status >= 500 {
				t.Errorf("%s, %s: %d %s", what, door, status, said)
			}
			if text, err := os.ReadFile(filepath.Join(outside, "mine")); err != nil || string(text) != "mine" {
				t.Fatalf("%s, %s: the host's file is %q, %v", what, door, text, err)
			}
			if all, _ := os.ReadDir(outside); len(all) != 1 {
				t.Fatalf("%s, %s: there is %v on the host", what, door, all)
			}
			if door == "import" && status == http.StatusOK && !strings.Contains(said, "error") {
				_, _, _ = g.try("run", "--rm", "evil", "x") // which unpacks it
			}
		}
		if what == "sparse bomb" {
			for _, door := range []string{"PUT /containers/box/archive?path=/srv", "POST /images/create?fromSrc=-&repo=evil"} {
				if status, said := send(t, socket, door, data); status/100 == 2 && !strings.Contains(said, "no room") || status >= 500 {
					t.Errorf("%s takes the bomb: %d %s", door, status, said)
				}
			}
		}
	}
	if all, err := os.ReadDir(outside); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	g.run("info")
}

// withDockerfile puts a Dockerfile before an archive's files, which copies them all.
func withDockerfile(t *testing.T, archive []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const text = "FROM scratch\nCOPY . /\n"
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Size: int64(len(text)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, text)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), archive...)
}

// send asks the API for something, and returns the status and what is said.
func send(t *testing.T, socket, what string, body []byte) (int, string) {
	t.Helper()
	method, path, _ := strings.Cut(what, " ")
	client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://gantry"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	if strings.Contains(path, "/create?name") {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(text)
}

// JSON that is cut, huge, deep or of other kinds than it should be is the client's fault, and costs nothing.
func TestHostileJSON(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	socket := g.status().Socket
	for what, body := range map[string]string{
		"cut": `{"Image":"probe"`, "an array": `[]`, "a number": `7`, "a word": `null`, "other kinds": `{"Image":7,"Env":{"a":1}}`,
		"deep": strings.Repeat(`{"Config":`, 200_000), "huge": `{"Image":"` + strings.Repeat("x", 40<<20) + `"}`,
		"two": `{"Image":"probe"}{"Image":"probe"}`, "not UTF-8": "{\"Image\":\"\xff\xfe\"}",
		"negative": `{"Image":"probe","HostConfig":{"Memory":-1}}`,
		"overflow": `{"Image":"probe","HostConfig":{"Memory":1e400}}`,
		"many":     `{"Image":"probe","Env":[` + strings.Repeat(`"=",`, 100_000) + `"a"]}`,
	} {
		if status, said := send(t, socket, "POST /containers/create?name=hostile", []byte(body)); status/100 != 4 && status != 0 {
			t.Errorf("%s: %d %.200s", what, status, said)
		}
	}
	if out := g.run("ps", "-aq"); out != "" {
		t.Errorf("there are containers: %s", out)
	}
}

// Clients that take a connection over and leave it half open, or send noise, leave nothing behind.
func TestHalfOpenConnections(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("run", "-d", "--init", "--name", "box", "-i", "debian:bookworm-slim", "cat")
	g.run("run", "-d", "--init", "--name", "tty", "-it", "debian:bookworm-slim", "cat")
	s := g.status()
	before, _ := usageAfter(t, s.PID)
	paths := []string{
		"/containers/box/attach?stream=1&stdin=1&stdout=1&stderr=1",
		"/containers/tty/attach?stream=1&stdin=1&stdout=1", "/session", "/grpc",
		"/containers/nobody/attach?stream=1", "/exec/nothing/start", "/containers/box/attach/ws?stream=1&stdin=1&stdout=1",
		"/events", "/containers/box/logs?follow=1&stdout=1", "/build", "/images/load",
	}
	for i := range 300 {
		conn, err := net.Dial("unix", s.Socket)
		if err != nil {
			t.Fatal(err)
		}
		method := map[bool]string{true: "GET", false: "POST"}[rand.IntN(4) == 0]
		head := method + " " + paths[i%len(paths)] + " HTTP/1.1\r\nHost: x\r\n"
		head += []string{"", "Connection: Upgrade\r\nUpgrade: tcp\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n",
			"Content-Length: 99999999\r\n",
			"Transfer-Encoding: chunked\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"}[rand.IntN(6)]
		head += "\r\n"
		_, _ = io.WriteString(conn, head[:len(head)-rand.IntN(2)*rand.IntN(len(head))])
		noise := make([]byte, rand.IntN(2000))
		for n := range noise {
			noise[n] = byte(rand.IntN(256))
		}
		_, _ = conn.Write(noise)
		switch rand.IntN(3) {
		case 0:
			_ = conn.(*net.UnixConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = io.Copy(io.Discard, conn)
		case 1:
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = conn.Read(make([]byte, 1))
		}
		conn.Close()
	}
	if s2 := g.status(); s2.PID != s.PID {
		t.Fatal("the daemon is another one")
	}
	eventually(t, "what they had open is closed", func() error {
		if files, _ := usageAfter(t, s.PID); files > before+5 {
			return fmt.Errorf("%d open files, %d before", files, before)
		}
		return nil
	})
	if out := g.run("exec", "box", "echo", "well"); out != "well" {
		t.Errorf("%q", out)
	}
}

func usageAfter(t *testing.T, pid int) (int, int64) {
	time.Sleep(200 * time.Millisecond)
	return usageOf(t, pid)
}
