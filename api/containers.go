package api

import (
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/spec"
)

func registerContainers(r *Router, m *runner.Manager) {
	c := &containersAPI{m}
	get, post := http.MethodGet, http.MethodPost
	r.Handle(post, "/containers/create", c.create)
	r.Handle(get, "/containers/json", c.list)
	r.Handle(post, "/containers/prune", c.prune)
	r.Handle(get, "/containers/{id}/json", c.inspect)
	r.Handle(get, "/containers/{id}/top", c.top)
	r.Handle(get, "/containers/{id}/logs", c.logs)
	r.Handle(get, "/containers/{id}/stats", c.stats)
	r.Handle(get, "/containers/{id}/changes", c.changes)
	r.Handle(get, "/containers/{id}/export", c.export)
	r.Handle(get, "/containers/{id}/archive", c.getArchive) // GET answers HEAD too
	r.Handle(http.MethodPut, "/containers/{id}/archive", c.putArchive)
	r.Handle(post, "/containers/{id}/update", c.update)
	r.Handle(post, "/containers/{id}/start", c.start)
	r.Handle(post, "/containers/{id}/stop", c.stop)
	r.Handle(post, "/containers/{id}/restart", c.restart)
	r.Handle(post, "/containers/{id}/kill", c.kill)
	r.Handle(post, "/containers/{id}/pause", c.pause)
	r.Handle(post, "/containers/{id}/unpause", c.unpause)
	r.Handle(post, "/containers/{id}/wait", c.wait)
	r.Handle(post, "/containers/{id}/rename", c.rename)
	r.Handle(http.MethodDelete, "/containers/{id}", c.remove)
}

// registerLinked serves containers by the names that others have for them: /containers/WEB/DB/json is the one that WEB
// calls DB by --link.
func registerLinked(r *Router, m *runner.Manager) {
	r.mux.HandleFunc("/containers/{id}/{alias}/{verb}", func(w http.ResponseWriter, req *http.Request) {
		r.serve(w, req, func(w http.ResponseWriter, req *http.Request) error {
			id, err := m.Linked(req.PathValue("id"), req.PathValue("alias"))
			if err != nil {
				return err
			}
			direct := req.Clone(req.Context())
			direct.URL.Path, direct.URL.RawPath = "/containers/"+id+"/"+req.PathValue("verb"), ""
			r.mux.ServeHTTP(w, direct)
			return nil
		})
	})
}

// containersAPI serves containers over the runner.
type containersAPI struct{ m *runner.Manager }

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *containersAPI) start(w http.ResponseWriter, r *http.Request) error {
	if id := r.URL.Query().Get("checkpoint"); id != "" {
		return checkpoint(id)
	}
	if r.URL.Query().Get("checkpoint-dir") != "" {
		return fault.Invalid("custom checkpointdir is not supported")
	}
	if err := c.m.Start(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

// checkpoint refuses what only an experimental daemon has, in Docker's words.
func checkpoint(id string) error {
	if !spec.ValidName(id) {
		return fault.Invalid("invalid checkpoint ID %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", id)
	}
	return fault.Invalid("checkpoint is not supported: it needs CRIU and an experimental daemon")
}

func stopOptions(r *http.Request) (runner.StopOptions, error) {
	o := runner.StopOptions{Signal: r.URL.Query().Get("signal")}
	if r.URL.Query().Get("t") == "" {
		return o, nil
	}
	t, err := intOf(r, "t", 0)
	o.Timeout = &t
	return o, err
}

func (c *containersAPI) stop(w http.ResponseWriter, r *http.Request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	if err := c.m.Stop(r.Context(), r.PathValue("id"), o); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) restart(w http.ResponseWriter, r *http.Request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	if err := c.m.Restart(r.Context(), r.PathValue("id"), o); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) kill(w http.ResponseWriter, r *http.Request) error {
	if err := c.m.Kill(r.Context(), r.PathValue("id"), r.URL.Query().Get("signal")); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) pause(w http.ResponseWriter, r *http.Request) error {
	if err := c.m.Pause(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) unpause(w http.ResponseWriter, r *http.Request) error {
	if err := c.m.Unpause(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) rename(w http.ResponseWriter, r *http.Request) error {
	if err := c.m.Rename(r.PathValue("id"), r.URL.Query().Get("name")); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) remove(w http.ResponseWriter, r *http.Request) error {
	if flag(r, "link") {
		return fault.Invalid("links between containers are not supported")
	}
	o := runner.RemoveOptions{Force: flag(r, "force"), Volumes: flag(r, "v")}
	if err := c.m.Remove(r.Context(), r.PathValue("id"), o); err != nil {
		return err
	}
	return noContent(w)
}

func (c *containersAPI) top(w http.ResponseWriter, r *http.Request) error {
	titles, rows, err := c.m.Top(r.Context(), r.PathValue("id"), r.URL.Query().Get("ps_args"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.TopResponse{Titles: titles, Processes: rows})
}

// wait sends its headers as soon as the waiting has begun: docker run starts the container after that.
func (c *containersAPI) wait(w http.ResponseWriter, r *http.Request) error {
	waiter, err := c.m.Wait(r.PathValue("id"), runner.Condition(r.URL.Query().Get("condition")))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	code, err := waiter.Wait(r.Context())
	if err != nil {
		return nil // the client has gone
	}
	return writeBody(w, container.WaitResponse{StatusCode: int64(code)})
}

// prune removes all containers that do not run.
func (c *containersAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("label", "label!", "until"); err != nil {
		return err
	}
	until, err := untilOf(f)
	if err != nil {
		return err
	}
	report := container.PruneReport{ContainersDeleted: []string{}}
	for _, rec := range c.m.List() {
		if rec.State.Running || !f.labels("label", rec.Config.Labels) || f.any("label!") && f.labels("label!", rec.Config.Labels) ||
			!until.IsZero() && !rec.Created.Before(until) {
			continue
		}
		size, _, _ := c.m.Size(r.Context(), rec.ID)
		if err := c.m.Remove(r.Context(), rec.ID, runner.RemoveOptions{}); err != nil {
			continue // started or removed meanwhile
		}
		report.ContainersDeleted = append(report.ContainersDeleted, rec.ID)
		report.SpaceReclaimed += uint64(size)
	}
	return writeJSON(w, http.StatusOK, report)
}
