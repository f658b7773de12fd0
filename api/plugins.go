package api

import (
	"net/http"

	"github.com/moby/moby/api/types/plugin"

	"github.com/gantry-build/gantry/internal/fault"
)

// registerPlugins answers for the plugins that there are: none.
func registerPlugins(r *Router) {
	r.Handle(http.MethodGet, "/plugins", func(w http.ResponseWriter, r *http.Request) error {
		f, err := parseFilters(r)
		if err != nil {
			return err
		}
		if err := f.only("enabled", "capability"); err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, plugin.ListResponse{})
	})
	r.Handle(http.MethodGet, "/plugins/{name}/json", func(_ http.ResponseWriter, r *http.Request) error {
		return fault.NotFound("plugin %q not found", r.PathValue("name"))
	})
}
