package qemu

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ownPrefix is of the names of all entries that gantry makes in the machine's table.
const ownPrefix = "gantry-"

// shared is the machine's own table, where an older kernel has no private ones. Entries in it are made when
// they are first needed, and carry the name of their owner: a daemon, or a command while it runs. It never
// touches an entry of another's.
type shared struct {
	table table
	owner string // the entries are called owner-ARCH
	mount string // where the table is mounted while entries are in it; "" is nowhere
	p     bool   // the kernel tells an emulator that flag P is set
	log   *slog.Logger

	mu   sync.Mutex
	tidy bool     // entries are taken away when it is closed
	keep []string // but those of these architectures
}

func (s *shared) name(arch string) string { return s.owner + "-" + arch }

// flags are those of an entry in the machine's table. P keeps argv[0], and emulators read from the
// kernel whether it is set (AT_FLAGS); before 5.12 they take argv[0] for the first argument.
func (s *shared) flags() string {
	if s.p {
		return flags
	}
	return "OCF"
}

// ensure makes the entry, unless it is there as it should be: this daemon's, or one that was killed.
func (s *shared) ensure(t target, emulator string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.table.entries()
	if err != nil {
		return s.explain(t.arch, err)
	}
	name := s.name(t.arch)
	if i := slices.IndexFunc(all, func(e entry) bool { return e.name == name }); i >= 0 {
		if e := all[i]; e.starts(t) && e.reaches() && e.interpreter == emulator {
			return s.keepMounted()
		}
		if err := s.table.remove(name); err != nil {
			return s.explain(t.arch, err)
		}
	}
	line, err := t.line(name, emulator, s.flags())
	if err != nil {
		return err
	}
	if err := s.table.register(line); err != nil {
		return s.explain(t.arch, err)
	}
	s.log.Info("registered for the whole machine", "entry", name, "emulator", emulator)
	return s.keepMounted()
}

// keepMounted keeps the table for programs that outlive this process. The kernel drops it, with all its entries, when
// its last mount goes (since Linux 6.7, and 5.10.224, 5.15.165 and 6.1.107 of the stable ones), and nobody
// else may have mounted it.
func (s *shared) keepMounted() error {
	if s.mount == "" {
		return nil
	}
	if err := s.table.attach(s.mount); err != nil {
		return fmt.Errorf("mounting the machine's binfmt_misc table at %s: %w", s.mount, err)
	}
	return nil
}

// explain makes the kernel's refusal one that says what to do.
func (s *shared) explain(arch string, err error) error {
	var next string
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		next = "it is read-only here; run the daemon outside of the container, or with --privileged"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENFILE), errors.Is(err, unix.EMFILE):
		next = "it takes no further entry; `ls " + hostTable + "` lists what is there, and writing -1 to one removes it"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOEXEC):
		next = "the kernel can't start the emulator; it may be on a file system mounted noexec"
	}
	err = fmt.Errorf("entry %s in the machine's binfmt_misc table: %w", s.name(arch), err)
	if next == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, next)
}

// others are the entries that gantry has not made.
func (s *shared) others() ([]entry, error) {
	all, err := s.table.entries()
	return slices.DeleteFunc(all, func(e entry) bool { return strings.HasPrefix(e.name, ownPrefix) }), err
}

// leave says that close takes the owner's entries away, but for those of the architectures.
func (s *shared) leave(architectures ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy, s.keep = true, architectures
}

// close lets go of the table, and takes away what leave has said, from a killed predecessor as well.
func (s *shared) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.tidy {
		return s.table.close()
	}
	var errs []error
	all, err := s.table.entries()
	errs = append(errs, err)
	kept := false
	for _, e := range all {
		arch, own := strings.CutPrefix(e.name, s.owner+"-")
		if _, known := targetFor(arch); !own || !known {
			continue
		}
		if slices.Contains(s.keep, arch) {
			kept = true
		} else {
			errs = append(errs, s.table.remove(e.name))
		}
	}
	if s.mount != "" && !kept {
		errs = append(errs, detach(s.mount))
	}
	return errors.Join(append(errs, s.table.close())...)
}

// commandEntry is the name of an entry that a command has made for itself: with its process, and when that
// began.
var commandEntry = regexp.MustCompile(`^` + ownPrefix + `exec-(\d+)\.(\d+)-`)

// commandOwner is the owner of this process's entries.
func commandOwner() (string, error) {
	begin, err := began(os.Getpid())
	return fmt.Sprintf("%sexec-%d.%s", ownPrefix, os.Getpid(), begin), err
}

// sweep takes away what killed commands have left.
func (s *shared) sweep() error {
	all, err := s.table.entries()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range all {
		if m := commandEntry.FindStringSubmatch(e.name); m != nil {
			if pid, err := strconv.Atoi(m[1]); err == nil && !running(pid, m[2]) {
				errs = append(errs, s.table.remove(e.name))
			}
		}
	}
	return errors.Join(errs...)
}
