package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
)

// filters are the query's "filters": values by term. Clients send {"term": {"value": true}}, old ones
// {"term": ["value"]}.
type filters map[string]map[string]bool

func parseFilters(r *http.Request) (filters, error) {
	f := filters{}
	text := r.URL.Query().Get("filters")
	if text == "" {
		return f, nil
	}
	if json.Unmarshal([]byte(text), &f) == nil {
		return f, nil
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(text), &lists); err != nil {
		return nil, fault.Invalid("invalid filters %q: %v", text, err)
	}
	f = filters{}
	for term, values := range lists {
		f[term] = map[string]bool{}
		for _, v := range values {
			f[term][v] = true
		}
	}
	return f, nil
}

// any says whether a term is there.
func (f filters) any(term string) bool { return len(f[term]) > 0 }

// has says whether a term has that value.
func (f filters) has(term, value string) bool { return f[term][value] }

// values returns a term's values in order.
func (f filters) values(term string) []string { return slices.Sorted(maps.Keys(f[term])) }

// labels says whether all of a term's values, NAME or NAME=VALUE, are among the labels.
func (f filters) labels(term string, labels map[string]string) bool {
	for want := range f[term] {
		k, v, exact := strings.Cut(want, "=")
		have, ok := labels[k]
		if !ok || exact && have != v {
			return false
		}
	}
	return true
}

// only refuses terms that an endpoint does not know.
func (f filters) only(known ...string) error {
	for term := range f {
		if !slices.Contains(known, term) {
			return fault.Invalid("invalid filter '%s'", term)
		}
	}
	return nil
}

// boolean is the one value of a term that is true or false; nil when it is not there.
func (f filters) boolean(term string) (*bool, error) {
	if !f.any(term) {
		return nil, nil
	}
	yes, no := f.has(term, "1") || f.has(term, "true"), f.has(term, "0") || f.has(term, "false")
	if len(f[term]) != 1 || yes == no {
		return nil, fault.Invalid("invalid filter '%s=%s'", term, strings.Join(f.values(term), ","))
	}
	return &yes, nil
}
