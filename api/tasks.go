package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster"
)

func findTask(ctx context.Context, m cluster.Manager, ref string) (*swarmapi.Task, error) {
	return pick("task", ref, func() (*swarmapi.Task, error) {
		got, err := m.GetTask(ctx, &swarmapi.GetTaskRequest{TaskID: ref})
		if err != nil {
			return nil, err
		}
		return got.Task, nil
	}, func(names, prefixes []string) ([]*swarmapi.Task, error) {
		got, err := m.ListTasks(ctx, &swarmapi.ListTasksRequest{
			Filters: &swarmapi.ListTasksRequest_Filters{Names: names, IDPrefixes: prefixes},
		}, large())
		if err != nil {
			return nil, err
		}
		return got.Tasks, nil
	})
}

func (s *Swarm) tasks(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err == nil {
		err = f.only("name", "id", "label", "service", "node", "desired-state", "_up-to-date", "runtime")
	}
	if err != nil {
		return err
	}
	asked, err := taskFilters(r.Context(), m, f)
	if err != nil {
		return err
	}
	got, err := m.ListTasks(r.Context(), &swarmapi.ListTasksRequest{Filters: asked}, large())
	if err != nil {
		return err
	}
	all := make([]swarm.Task, 0, len(got.Tasks))
	for _, t := range got.Tasks {
		converted, err := convert.TaskFromGRPC(*t)
		if err != nil {
			return err
		}
		all = append(all, converted)
	}
	return writeJSON(w, http.StatusOK, all)
}

func taskFilters(ctx context.Context, m cluster.Manager, f filters) (*swarmapi.ListTasksRequest_Filters, error) {
	asked := &swarmapi.ListTasksRequest_Filters{
		NamePrefixes: f.values("name"), IDPrefixes: f.values("id"), Labels: pairs(f.values("label")), Runtimes: f.values("runtime"),
		UpToDate: f.any("_up-to-date"),
	}
	if len(asked.Runtimes) == 0 {
		asked.Runtimes = []string{string(swarm.RuntimeContainer)}
	}
	for _, ref := range f.values("service") {
		found, err := findService(ctx, m, ref, false)
		if err != nil {
			return nil, err
		}
		asked.ServiceIDs = append(asked.ServiceIDs, found.ID)
	}
	for _, ref := range f.values("node") {
		found, err := findNode(ctx, m, ref)
		if err != nil {
			return nil, err
		}
		asked.NodeIDs = append(asked.NodeIDs, found.ID)
	}
	for _, v := range f.values("desired-state") {
		state, ok := swarmapi.TaskState_value[strings.ToUpper(v)]
		if !ok {
			return nil, fault.Invalid("invalid desired-state filter: '%s'", v)
		}
		asked.DesiredStates = append(asked.DesiredStates, swarmapi.TaskState(state))
	}
	return asked, nil
}

func (s *Swarm) task(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	t, err := findTask(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	converted, err := convert.TaskFromGRPC(*t)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, converted)
}
