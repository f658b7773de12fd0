package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Image is the part of an image's config blob that a container inherits, with the fields that
// Docker adds to OCI's (docker-image-spec v1.3).
type Image struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	Healthcheck  *Healthcheck        `json:",omitempty"`
	Shell        []string            `json:",omitempty"`
}

// ParseImage reads an image's config blob.
func ParseImage(blob []byte) (Image, error) {
	var v struct {
		Config Image `json:"config"`
	}
	if err := json.Unmarshal(blob, &v); err != nil {
		return Image{}, fmt.Errorf("image config: %w", err)
	}
	return v.Config, nil
}

// Merge returns cfg completed by what the image says. What the user gave wins; an entry point given
// by the user drops the image's command, as its arguments were meant for the image's entry point.
func Merge(cfg Config, img Image) Config {
	if cfg.User == "" {
		cfg.User = img.User
	}
	if len(cfg.Entrypoint) == 0 {
		if len(cfg.Cmd) == 0 {
			cfg.Cmd = slices.Clone(img.Cmd)
		}
		// An explicit [""] clears the entry point, nil inherits it.
		if cfg.Entrypoint == nil {
			cfg.Entrypoint = slices.Clone(img.Entrypoint)
		}
	}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = img.WorkingDir
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = img.StopSignal
	}
	if len(cfg.Shell) == 0 {
		cfg.Shell = slices.Clone(img.Shell)
	}
	cfg.Env = mergeEnv(img.Env, cfg.Env)
	cfg.Labels = mergeMap(img.Labels, cfg.Labels)
	cfg.ExposedPorts = mergeMap(img.ExposedPorts, cfg.ExposedPorts)
	cfg.Volumes = mergeMap(img.Volumes, cfg.Volumes)
	cfg.Healthcheck = mergeHealth(img.Healthcheck, cfg.Healthcheck)
	return cfg
}

func mergeMap[V any](base, over map[string]V) map[string]V {
	if len(base) == 0 && len(over) == 0 {
		return nil
	}
	m := maps.Clone(base)
	if m == nil {
		m = map[string]V{}
	}
	maps.Copy(m, over)
	return m
}

// mergeEnv puts over's variables after base's, without those that over sets again. A bare NAME in
// over takes the variable away, as in Docker.
func mergeEnv(base, over []string) []string {
	named := map[string]bool{}
	for _, e := range over {
		k, _, _ := strings.Cut(e, "=")
		named[k] = true
	}
	var env []string
	for _, e := range base {
		if k, _, _ := strings.Cut(e, "="); !named[k] {
			env = append(env, e)
		}
	}
	for _, e := range over {
		if strings.Contains(e, "=") {
			env = append(env, e)
		}
	}
	return env
}

func mergeHealth(base, over *Healthcheck) *Healthcheck {
	if over == nil {
		return base
	}
	if base == nil {
		return over
	}
	h := *over
	if len(h.Test) == 0 {
		h.Test = base.Test
	}
	pick(&h.Interval, base.Interval)
	pick(&h.Timeout, base.Timeout)
	pick(&h.StartPeriod, base.StartPeriod)
	pick(&h.StartInterval, base.StartInterval)
	pick(&h.Retries, base.Retries)
	return &h
}

func pick[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Args is the command line of the container's first process.
func (c Config) Args() []string {
	args := slices.Concat(c.Entrypoint, c.Cmd)
	if len(c.Entrypoint) > 0 && c.Entrypoint[0] == "" { // --entrypoint ""
		args = args[1:]
	}
	return args
}
