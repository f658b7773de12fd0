package api

import (
	"net/http"

	"github.com/containerd/errdefs"
)

// statusOf maps the classes of containerd/errdefs, which moby's clients map back.
func statusOf(err error) int {
	for _, c := range []struct {
		is     func(error) bool
		status int
	}{
		{errdefs.IsNotModified, http.StatusNotModified},
		{errdefs.IsNotFound, http.StatusNotFound},
		{errdefs.IsInvalidArgument, http.StatusBadRequest},
		{errdefs.IsOutOfRange, http.StatusBadRequest},
		{errdefs.IsConflict, http.StatusConflict},
		{errdefs.IsAlreadyExists, http.StatusConflict},
		{errdefs.IsFailedPrecondition, http.StatusConflict},
		{errdefs.IsUnauthorized, http.StatusUnauthorized},
		{errdefs.IsPermissionDenied, http.StatusForbidden},
		{errdefs.IsNotImplemented, http.StatusNotImplemented},
		{errdefs.IsUnavailable, http.StatusServiceUnavailable},
	} {
		if c.is(err) {
			return c.status
		}
	}
	return http.StatusInternalServerError
}
