package frontend

import (
	"errors"
	"maps"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/fault"
)

// Change applies lines of a Dockerfile to an image's configuration, as `commit --change` and `import --change` have them:
// CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR.
// errdefs.ErrInvalidArgument for others, and for what can't be parsed.
func Change(cfg *dockerspec.DockerOCIImageConfig, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	parsed, err := parser.Parse(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		return fault.Invalid("changes: %v", err)
	}
	for _, node := range parsed.AST.Children {
		cmd, err := instructions.ParseInstruction(node)
		if err == nil {
			err = expand(cfg, cmd)
		}
		if err == nil {
			err = change(cfg, cmd)
		}
		if errors.Is(err, errNoChange) {
			return fault.Invalid("%s is not a valid change command", strings.ToUpper(node.Value))
		}
		if err != nil {
			return fault.Invalid("change %q: %v", node.Original, err)
		}
	}
	return nil
}

// errNoChange is about a line of a Dockerfile that can't change an image's configuration.
var errNoChange = errors.New("no change of a configuration")

// expand puts the values of the configuration's environment where a line has variables, and takes quotes away, in the
// lines and words where a Dockerfile does.
func expand(cfg *dockerspec.DockerOCIImageConfig, cmd any) error {
	c, ok := cmd.(instructions.SupportsSingleWordExpansion)
	if !ok {
		return nil
	}
	env := shell.EnvsFromSlice(cfg.Env)
	return c.Expand(func(word string) (string, error) {
		out, _, err := shell.NewLex('\\').ProcessWord(word, env)
		return out, err
	})
}

func change(cfg *dockerspec.DockerOCIImageConfig, cmd any) error {
	switch c := cmd.(type) {
	case *instructions.CmdCommand:
		cfg.Cmd = command(cfg, c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		cfg.Entrypoint = command(cfg, c.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			cfg.Env = setEnv(cfg.Env, e.Key, e.Value)
		}
	case *instructions.LabelCommand:
		cfg.Labels = cloned(cfg.Labels)
		for _, l := range c.Labels {
			cfg.Labels[l.Key] = l.Value
		}
	case *instructions.ExposeCommand:
		cfg.ExposedPorts = cloned(cfg.ExposedPorts)
		for _, p := range c.Ports {
			if !strings.Contains(p, "/") {
				p += "/tcp"
			}
			cfg.ExposedPorts[p] = struct{}{}
		}
	case *instructions.VolumeCommand:
		cfg.Volumes = cloned(cfg.Volumes)
		for _, v := range c.Volumes {
			cfg.Volumes[v] = struct{}{}
		}
	case *instructions.WorkdirCommand:
		cfg.WorkingDir = c.Path
	case *instructions.UserCommand:
		cfg.User = c.User
	case *instructions.StopSignalCommand:
		cfg.StopSignal = c.Signal
	case *instructions.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, c.Expression)
	case *instructions.HealthCheckCommand:
		cfg.Healthcheck = c.Health
	case *instructions.ShellCommand:
		cfg.Shell = c.Shell
	default:
		return errNoChange
	}
	return nil
}

// command is a command line, in the image's shell if it is in the form of one.
func command(cfg *dockerspec.DockerOCIImageConfig, line instructions.ShellDependantCmdLine) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	sh := cfg.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, sh...), strings.Join(line.CmdLine, " "))
}

func setEnv(env []string, key, value string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k != key {
			out = append(out, e)
		}
	}
	return append(out, key+"="+value)
}

func cloned[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}
