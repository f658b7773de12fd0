// Package frontend is what stands between a user's words and the solver's graph: which platforms
// and names a request may have, and the Dockerfile frontend, which turns a Dockerfile into LLB.
package frontend

import "github.com/distribution/reference"

// Host is the registry that an image's name belongs to.
func Host(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}
