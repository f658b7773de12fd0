package request

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
)

// architectures are the ones that an image can be for: Go's names, as the OCI image spec says.
var architectures = []string{
	"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle",
	"ppc64", "ppc64le", "riscv64", "s390x", "wasm",
}

var systems = []string{"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasi", "wasip1"}

// Platforms parses the values of --platform: each a list with commas, normalised, without repeats,
// in the order given.
func Platforms(values []string) ([]string, error) {
	var out []string
	for _, v := range values {
		for p := range strings.SplitSeq(v, ",") {
			if p = strings.TrimSpace(p); p == "local" { // the client's own, as for buildx
				p = platforms.DefaultString()
			}
			parsed, err := platforms.Parse(p)
			if err != nil {
				return nil, fmt.Errorf("--platform %q is no platform; "+
					"write os/architecture or os/architecture/variant, such as linux/arm/v7", p)
			}
			if !slices.Contains(systems, parsed.OS) || !slices.Contains(architectures, parsed.Architecture) {
				return nil, fmt.Errorf("--platform %q is unknown; known architectures are %s", p, strings.Join(architectures, ", "))
			}
			if name := platforms.Format(platforms.Normalize(parsed)); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}
