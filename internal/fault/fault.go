// Package fault makes errors of containerd's classes whose text is all theirs: errdefs alone would add the
// class's own words, and clients compare Docker's texts.
package fault

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Invalid is an errdefs.ErrInvalidArgument: the request can't be had as it is.
func Invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Conflict is an errdefs.ErrConflict: the state of things is against it.
func Conflict(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}

// NotFound is an errdefs.ErrNotFound.
func NotFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

// Forbidden is an errdefs.ErrPermissionDenied: it is not to be done, whoever asks.
func Forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, args...))
}

// Unavailable is an errdefs.ErrUnavailable: what it needs is not there.
func Unavailable(format string, args ...any) error {
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(format, args...))
}
