package command

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	compose "github.com/compose-spec/compose-go/v2/cli"
	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// locateErrors has all commands below cmd say where in a Compose file something is wrong. Compose itself names the key, or
// the line, but not the one with the other, and not always the file.
func locateErrors(cmd *cobra.Command, flags *pflag.FlagSet) {
	for _, c := range cmd.Commands() {
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				err := run(cmd, args)
				if status := (cli.StatusError{}); err == nil || errors.As(err, &status) {
					return err
				}
				return withPlace(err, composeFiles(flags))
			}
		}
		locateErrors(c, flags)
	}
}

// composeFiles are those that Compose reads: the ones of its flags, else of the environment, else the ones that it finds.
func composeFiles(flags *pflag.FlagSet) []string {
	files, _ := flags.GetStringArray("file")
	dir, _ := flags.GetString("project-directory")
	o, err := compose.NewProjectOptions(files, compose.WithOsEnv, compose.WithWorkingDirectory(dir), compose.WithConfigFileEnv,
		compose.WithDefaultConfigPath)
	if err != nil {
		return nil
	}
	return o.ConfigPaths
}

var (
	// position is how Compose's reader tells where a file is no YAML.
	position = regexp.MustCompile(`\bat L(\d+)\.C(\d+)`)
	// keyPath is how its checks name what they are about.
	keyPath = regexp.MustCompile(`\b(?:services|networks|volumes|configs|secrets|models|include)\.[\w.\-\[\]]+`)
	// validated is the file that a check was about, which may be an included one.
	validated = regexp.MustCompile(`\bvalidating (\S+):`)
)

// withPlace is err after the file and the line that it is about, if that can be told. A later file's word counts.
func withPlace(err error, files []string) error {
	text := err.Error()
	if m := validated.FindStringSubmatch(text); m != nil {
		files = append(files, m[1])
	}
	for _, file := range slices.Backward(files) {
		data, rerr := os.ReadFile(file)
		if rerr != nil {
			continue
		}
		var doc yaml.Node
		if yaml.Unmarshal(data, &doc) != nil {
			if m := position.FindStringSubmatch(text); m != nil {
				return fmt.Errorf("%s:%s:%s: %w", file, m[1], m[2], err)
			}
			continue
		}
		if line := lineOf(&doc, strings.TrimRight(keyPath.FindString(text), ".")); line > 0 {
			return fmt.Errorf("%s:%d: %w", file, line, err)
		}
	}
	return err
}

// lineOf is where a key is that is named with all above it, as in services.web.image; 0 when it is not there. Names may have
// dots themselves.
func lineOf(n *yaml.Node, path string) int {
	switch {
	case path == "":
		return 0
	case n.Kind == yaml.DocumentNode && len(n.Content) > 0:
		return lineOf(n.Content[0], path)
	case n.Kind == yaml.AliasNode:
		return lineOf(n.Alias, path)
	case n.Kind != yaml.MappingNode:
		return 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		rest, is := strings.CutPrefix(path, key.Value)
		if !is {
			continue
		}
		if rest == "" || value.Kind != yaml.MappingNode && value.Kind != yaml.AliasNode && strings.ContainsAny(rest[:1], ".[") {
			return key.Line // an element of a list is where the list is
		}
		if rest[0] == '.' {
			if line := lineOf(value, rest[1:]); line > 0 {
				return line
			}
		}
	}
	return 0
}
