package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"
)

// What is longer is two things: a file, a function, a line. A tab is four columns.
const (
	fileLines   = 400
	funcLines   = 70
	lineColumns = 140
)

func TestShape(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	files := strings.Fields(string(out))
	if len(files) < 200 {
		t.Fatalf("git names %d files", len(files))
	}
	for _, name := range files {
		text, err := os.ReadFile("../../" + name)
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range misshapen(name, string(text)) {
			t.Error(wrong)
		}
	}
}

func misshapen(name, text string) (wrong []string) {
	if n := strings.Count(text, "\n"); n > fileLines {
		wrong = append(wrong, over(name, n, "lines", fileLines))
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if c := utf8.RuneCountInString(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")); c > lineColumns {
			wrong = append(wrong, over(fmt.Sprintf("%s:%d", name, n), c, "columns", lineColumns))
		}
	}
	fs := token.NewFileSet()
	file, err := parser.ParseFile(fs, name, text, parser.SkipObjectResolution)
	if err != nil {
		return append(wrong, err.Error())
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first := fs.Position(f.Pos()).Line
		if n := fs.Position(f.End()).Line - first + 1; n > funcLines {
			wrong = append(wrong, over(fmt.Sprintf("%s:%d: func %s", name, first, f.Name.Name), n, "lines", funcLines))
		}
	}
	return wrong
}

func over(what string, n int, unit string, limit int) string {
	return fmt.Sprintf("%s has %d %s, more than %d", what, n, unit, limit)
}

// Each kind of excess is seen: else the test above proves nothing.
func TestExcessIsSeen(t *testing.T) {
	for says, text := range map[string]string{
		"x.go has 402 lines":          "package x\n" + strings.Repeat("\n", fileLines+1),
		"x.go:2 has 143 columns":      "package x\n" + "\t// " + strings.Repeat("ö", 136) + "\n",
		"x.go:2: func f has 71 lines": "package x\nfunc f() {" + strings.Repeat("\n", funcLines) + "}\n",
	} {
		if got := misshapen("x.go", text); len(got) != 1 || !strings.HasPrefix(got[0], says) {
			t.Errorf("%q, want %q", got, says)
		}
	}
	if got := misshapen("x.go", "package x\n\t// "+strings.Repeat("x", 133)+"\n"); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
