package frontend_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// longestError is more than any message needs that a person is to read.
const longestError = 8 << 10

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
		"", "\x00", "\xff\xfe\x00F", "\xef\xbb\xbfFROM scratch\r\n",
		"\x7fELF\x02\x01\x01", "FROM \x1b[31mred\n", "FROM a\x00b\nRUN \xff\xff\n",
		strings.Repeat("A", 1<<20), "FROM scratch\nRUN <<\n", "FROM scratch\nRUN <<A <<A\nA\nA\n", "FROM scratch\nCOPY <<\x1b /\n\x1b\n",
		"# escape=\x1b\nFROM scratch",
		"FROM scratch\nENV A=${A:-${A:-${A", "FROM scratch\nONBUILD ONBUILD RUN x", "FROM scratch AS \u202e\nCOPY --from=\u202e / /",
		"ARG A=$A\nFROM ${A/*/}\n", "FROM scratch\nHEALTHCHECK --interval=-1s --retries=99999999999999999999 CMD [",
		"FROM 0\nFROM 0\nCOPY --from=-1 . .",
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

func checkAnswer(t testing.TB, c *collector) {
	t.Helper()
	res, err := c.compile(t.Context())
	if err == nil && res == nil {
		t.Fatal("neither result nor error")
	}
	if err != nil {
		checkMessage(t, err.Error())
	}
}

func checkMessage(t testing.TB, msg string) {
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

// longOnes are kinds of long Dockerfiles, with n lines each.
func longOnes(n int) map[string]string {
	const from = "FROM debian:bookworm-slim\n"
	return map[string]string{
		"comments": from + repeat(n, "# line %d\n"),
		"heredoc":  from + "RUN <<EOF\n" + repeat(n, "echo %d\n") + "EOF\n",
		"one":      from + "RUN true" + repeat(n, " && \\\n echo %d") + "\n",
		"labels":   from + "LABEL" + repeat(n, " \\\n key%d=value") + "\n",
		"stages":   repeat(n, "FROM scratch AS s%d\n"),
		"garbage":  from + repeat(n, "NONSENSE%d\n"),
		"ignored":  from + repeat(n, "\n"),
	}
}

// squareOnes are those before each of whose instructions BuildKit looks at all others: the time grows with
// the square of n.
func squareOnes(n int) map[string]string {
	const from = "FROM debian:bookworm-slim\n"
	return map[string]string{
		"runs": from + repeat(n, "RUN echo %d\n"), "copies": from + repeat(n, "COPY f%d /f%d\n"),
		"variables": from + repeat(n, "ENV V%d=x\n"),
	}
}

// A long Dockerfile gets an answer like any other; how long that takes is what the benchmark tells.
func TestLongDockerfile(t *testing.T) {
	for _, texts := range []map[string]string{longOnes(lines), squareOnes(lines / 10)} {
		for name, text := range texts {
			t.Run(name, func(t *testing.T) { checkAnswer(t, asking(text, "")) })
		}
	}
}

func BenchmarkLongDockerfile(b *testing.B) {
	for _, texts := range []map[string]string{longOnes(lines), squareOnes(lines)} {
		for name, text := range texts {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					checkAnswer(b, asking(text, ""))
				}
			})
		}
	}
}
