package request

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/moby/buildkit/client"
)

// AddAttributes adds attributes to the outputs of the given types, where they have none of that name.
func AddAttributes(o *client.SolveOpt, attrs map[string]string, types ...string) {
	for i, e := range o.Exports {
		if !slices.Contains(types, e.Type) {
			continue
		}
		all := maps.Clone(attrs)
		maps.Copy(all, e.Attrs)
		o.Exports[i].Attrs = all
	}
}

// Reproduce asks for a result that depends on the sources only. epoch is [SourceDate]'s.
func Reproduce(o *client.SolveOpt, epoch string) {
	o.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] = epoch
	AddAttributes(o, map[string]string{"rewrite-timestamp": "true", "compression": "gzip", "force-compression": "true"},
		client.ExporterImage, client.ExporterOCI, client.ExporterDocker)
}

// cpuPeriod is the kernel's usual one, in microseconds, and docker's for --cpus.
const cpuPeriod = 100_000

// CPUs returns the values of --cpu-period and --cpu-quota, in microseconds, that give each step a number of
// CPUs.
func CPUs(n float64) (period, quota string, err error) {
	if n < 0 {
		return "", "", fmt.Errorf("--cpus %v: a number of CPUs is positive", n)
	}
	return strconv.Itoa(cpuPeriod), strconv.Itoa(int(n * cpuPeriod)), nil
}
