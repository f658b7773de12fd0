package frontend_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// longestError is more than any message needs that a person is to read.
const longestError = 8 << 10

// compileLimit is far above what any file of the accepted size may take.
const compileLimit = 30 * time.Second

// requests are the questions that a Dockerfile can be the subject of; the empty one is a build.
var requests = []string{"", "frontend.lint", "frontend.outline", "frontend.targets"}

// FuzzDockerfile gives the frontend any bytes as a Dockerfile: it must answer in time, and an error
// must be one that a person can read. (What it quotes is made fit for a terminal where it is shown.)
func FuzzDockerfile(f *testing.F) {
	for _, name := range cases(f) {
		data, err := os.ReadFile(name + ".Dockerfile")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, byte(0))
	}
	for i, garbage := range []string{
		"", "\x00", "\xff\xfe\x00F", "\xef\xbb\xbfFROM scratch\r\n", "\x7fELF\x02\x01\x01", "FROM \x1b[31mred\n", "FROM a\x00b\nRUN \xff\xff\n",
		strings.Repeat("A", 1<<20), "FROM scratch\nRUN <<\n", "FROM scratch\nRUN <<A <<A\nA\nA\n", "FROM scratch\nCOPY <<\x1b /\n\x1b\n", "# escape=\x1b\nFROM scratch",
		"FROM scratch\nENV A=${A:-${A:-${A", "FROM scratch\nONBUILD ONBUILD RUN x", "FROM scratch AS \u202e\nCOPY --from=\u202e / /",
		"ARG A=$A\nFROM ${A/*/}\n", "FROM scratch\nHEALTHCHECK --interval=-1s --retries=99999999999999999999 CMD [", "FROM 0\nFROM 0\nCOPY --from=-1 . .",
	} {
		f.Add([]byte(garbage), byte(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, request byte) {
		checkAnswer(t, asking(string(data), requests[int(request)%len(requests)]))
	})
}

// asking is a client with one Dockerfile and one of the requests.
func asking(dockerfile, request string) *collector {
	c := &collector{
		attrs: map[string]string{"platform": "linux/arm/v7"},
		files: map[string][]byte{"dockerfile/Dockerfile": []byte(dockerfile)},
	}
	if request != "" {
		c.attrs["requestid"] = request
	}
	return c
}

func checkAnswer(t *testing.T, c *collector) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), compileLimit)
	defer cancel()
	begin := time.Now()
	res, err := c.compile(ctx)
	if took := time.Since(begin); took > compileLimit {
		t.Fatalf("took %v", took)
	}
	if err == nil && res == nil {
		t.Fatal("neither result nor error")
	}
	if err != nil {
		checkMessage(t, err.Error())
	}
}

func checkMessage(t *testing.T, msg string) {
	t.Helper()
	if msg == "" || len(msg) > longestError {
		t.Fatalf("an error of %d bytes: %.200q", len(msg), msg)
	}
}

// lines are what a long Dockerfile has.
const lines = 10_000

func repeat(n int, line string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(line, "%d", fmt.Sprint(i)))
	}
	return b.String()
}

func TestLongDockerfile(t *testing.T) {
	const from = "FROM debian:bookworm-slim\n"
	for name, text := range map[string]string{
		"comments": from + repeat(lines, "# line %d\n"),
		"heredoc":  from + "RUN <<EOF\n" + repeat(lines, "echo %d\n") + "EOF\n",
		"one":      from + "RUN true" + repeat(lines, " && \\\n echo %d") + "\n",
		"labels":   from + "LABEL" + repeat(lines, " \\\n key%d=value") + "\n",
		"stages":   repeat(lines, "FROM scratch AS s%d\n"),
		"garbage":  from + repeat(lines, "NONSENSE%d\n"),
		"ignored":  from + repeat(lines, "\n"),
	} {
		t.Run(name, func(t *testing.T) { checkAnswer(t, asking(text, "")) })
	}
	// BuildKit looks at all instructions before each of these, so time grows with the square of their
	// number: seconds for all, which is for continuous integration.
	some := lines / 10
	if os.Getenv("GANTRY_TEST_REQUIRE") == "all" {
		some = lines
	}
	for name, line := range map[string]string{"runs": "RUN echo %d\n", "copies": "COPY f%d /f%d\n", "variables": "ENV V%d=x\n"} {
		t.Run(name, func(t *testing.T) { checkAnswer(t, asking(from+repeat(some, line), "")) })
	}
}
