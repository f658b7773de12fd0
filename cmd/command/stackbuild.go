package command

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/cli/cli/command"
	"github.com/docker/compose/v5/pkg/api"
	engine "github.com/docker/compose/v5/pkg/compose"
)

// buildStack builds the images of a project's services here, each for the platforms of the nodes that may run the service, and names
// those that have no name. Nodes fetch them from this one.
func (p *place) buildStack(ctx context.Context, project *types.Project, quiet bool) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		s := project.Services[name]
		if s.Build == nil {
			continue
		}
		s.Image = api.GetImageNameOrDefault(s, project.Name)
		if len(s.Build.Platforms) == 0 {
			wanted, err := p.platformsFor(ctx, name, s)
			if err != nil {
				return err
			}
			s.Build.Platforms = wanted
		}
		s.Platform = "" // it has several
		project.Services[name] = s
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	docker, err := command.NewDockerCli(command.WithStandardStreams(), command.WithUserAgent("compose/"+api.ComposeVersion))
	if err != nil {
		return err
	}
	if err := p.connectCompose(docker); err != nil {
		return err
	}
	builder, err := engine.NewComposeService(docker)
	if err != nil {
		return err
	}
	progress := "auto"
	if quiet {
		progress = "quiet"
	}
	return builder.Build(ctx, project, api.BuildOptions{Services: names, Progress: progress, Quiet: quiet, Out: docker.Err()})
}

// platformsFor are those of the nodes on which a service may run; the one that the file names, if it does.
func (p *place) platformsFor(ctx context.Context, name string, s types.ServiceConfig) (all []string, err error) {
	if s.Platform != "" {
		return []string{s.Platform}, nil
	}
	q := url.Values{}
	if s.Deploy != nil {
		q["constraint"] = s.Deploy.Placement.Constraints
	}
	if err := p.call(ctx, http.MethodGet, "/gantry/cluster/platforms?"+q.Encode(), &all); err != nil {
		return nil, fmt.Errorf("services.%s: %w", name, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("services.%s: no node of the cluster is active and has %s: build.platforms says for which platforms to "+
			"build nevertheless", name, strings.Join(q["constraint"], " and "))
	}
	return all, nil
}
