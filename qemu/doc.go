// Package qemu knows which platforms this machine can run, and how.
//
// A platform is native when the CPU and the kernel run its programs, or emulated
// when QEMU's user-mode emulator does. Emulation changes nothing on the host: the
// [Machine] makes one identity-mapped user namespace whose private binfmt_misc
// table (Linux 6.7, Documentation/admin-guide/binfmt-misc.rst) starts the
// emulators, and a container that needs them joins it. [Way.Edit] is that whole
// difference, as an edit of the OCI spec.
//
// Words: a way is how one platform runs here; a table is a binfmt_misc instance;
// an entry is one line of it; a refusal is a platform that does not run here,
// with the reason and the next step. What the package will not do is register
// anything in the host's own table: an entry that is already there is used as it
// is, and otherwise an older kernel is a reason to refuse.
//
// The namespace is made by this same program, started again: every main, and
// every TestMain, that uses the package calls [MaybeChild] first.
package qemu
