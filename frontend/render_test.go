package frontend_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	exporter "github.com/moby/buildkit/exporter/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"
)

// render is all that a build asks for as text: warnings, requests to the solver, the image's config.
func render(c *collector, res *gateway.Result, err error) (string, error) {
	var b strings.Builder
	for _, w := range slices.Sorted(slices.Values(c.warnings)) { // those of one line come in any order
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	for _, req := range c.solved {
		if req.Frontend != "" {
			fmt.Fprintf(&b, "frontend %s\n", req.Frontend)
			flatten(&b, "", mapAny(req.FrontendOpt))
			continue
		}
		if err := renderLLB(&b, req.Definition); err != nil {
			return "", err
		}
	}
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
		return b.String(), nil
	}
	err = renderResult(&b, res)
	return b.String(), err
}

func renderResult(b *strings.Builder, res *gateway.Result) error {
	if epoch, ok := res.Metadata[exporter.ExporterEpochKey]; ok {
		fmt.Fprintf(b, "epoch %s\n", epoch)
	}
	if config, ok := res.Metadata[exptypes.ExporterImageConfigKey]; ok {
		b.WriteString("config\n")
		var v any
		if err := json.Unmarshal(config, &v); err != nil {
			return err
		}
		flatten(b, "", v)
	}
	if text, ok := res.Metadata["result.txt"]; ok {
		fmt.Fprintf(b, "result\n%s", text)
	}
	return nil
}

// renderLLB writes the operations in their order, which is topological, each with a number instead of
// its digest: a change is then seen where it is, not in all that stands on it.
func renderLLB(b *strings.Builder, def *pb.Definition) error {
	numbers := map[string]int{}
	for i, dt := range def.Def {
		dgst := digest.FromBytes(dt).String()
		numbers[dgst] = i + 1
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return err
		}
		data, err := protojson.Marshal(&op)
		if err != nil {
			return err
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			return err
		}
		fmt.Fprintf(b, "#%d%s\n", i+1, header(&op, fields, numbers))
		renderMetadata(b, def.Metadata[dgst])
		for _, said := range []string{"inputs", "platform", "constraints"} {
			delete(fields, said)
		}
		flatten(b, "", fields)
	}
	return nil
}

func header(op *pb.Op, fields map[string]any, numbers map[string]int) string {
	kind := " result"
	for _, k := range []string{"exec", "source", "file", "build", "merge", "diff"} {
		if fields[k] != nil {
			kind = " " + k
		}
	}
	if p := op.Platform; p != nil {
		kind += " " + platforms.Format(p.Spec())
	}
	for i, in := range op.Inputs {
		if i == 0 {
			kind += " <-"
		}
		kind += fmt.Sprintf(" #%d", numbers[in.Digest])
		if in.Index != 0 {
			kind += fmt.Sprintf(".%d", in.Index)
		}
	}
	return kind
}

// renderMetadata leaves out capabilities, which follow from the operation, and ids of chance.
func renderMetadata(b *strings.Builder, md *pb.OpMetadata) {
	for _, k := range slices.Sorted(maps.Keys(md.GetDescription())) {
		fmt.Fprintf(b, "  %s: %q\n", k, md.Description[k])
	}
	if md.GetIgnoreCache() {
		b.WriteString("  cache is ignored\n")
	}
	if g := md.GetProgressGroup(); g != nil {
		fmt.Fprintf(b, "  shown as part of: %q\n", g.Name)
	}
	if r := md.GetLinuxResources(); r != nil {
		fmt.Fprintf(b, "  limits: %s\n", plain(r))
	}
	if e := md.GetExportCache(); e != nil {
		fmt.Fprintf(b, "  cache is exported: %v\n", e.Value)
	}
}

// flatten writes a JSON value as lines of "path: value". Lists of plain values are one line.
func flatten(b *strings.Builder, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			flatten(b, strings.TrimPrefix(at+"."+k, "."), v[k])
		}
		if len(v) == 0 && at != "" {
			fmt.Fprintf(b, "  %s: {}\n", at)
		}
	case []any:
		if !slices.ContainsFunc(v, nested) {
			fmt.Fprintf(b, "  %s: %s\n", at, plain(v))
			return
		}
		for i, e := range v {
			flatten(b, at+"."+strconv.Itoa(i), e)
		}
	default:
		fmt.Fprintf(b, "  %s: %s\n", at, readable(at, v))
	}
}

func nested(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// readable shows the bytes of inline files as text and modes as octal numbers.
func readable(at string, v any) string {
	key := strings.TrimPrefix(path.Ext(at), ".")
	if s, ok := v.(string); ok && key == "data" {
		if dt, err := base64.StdEncoding.DecodeString(s); err == nil {
			return strconv.Quote(string(dt))
		}
	}
	if n, ok := v.(float64); ok && key == "mode" && n >= 0 {
		return fmt.Sprintf("%#o", int64(n))
	}
	return plain(v)
}

func plain(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}

func mapAny(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// difference shows two texts' lines: "-" only in want, "+" only in got, with a little of what is around.
func difference(want, got string) string {
	x, y := strings.Split(want, "\n"), strings.Split(got, "\n")
	common := make([][]int, len(x)+1) // length of the longest common subsequence of x[i:] and y[j:]
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			lines = append(lines, "  "+x[i])
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			lines = append(lines, "- "+x[i])
			i++
		default:
			lines = append(lines, "+ "+y[j])
			j++
		}
	}
	return around(lines, 2)
}

// around keeps the changed lines and n on either side.
func around(lines []string, n int) string {
	var b strings.Builder
	last := -1
	for i, line := range lines {
		near := slices.ContainsFunc(lines[max(0, i-n):min(len(lines), i+n+1)], func(l string) bool { return l[0] != ' ' })
		if !near {
			continue
		}
		if i != last+1 {
			b.WriteString("...\n")
		}
		last = i
		b.WriteString(line + "\n")
	}
	return b.String()
}
