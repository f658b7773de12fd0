// Package qemu knows which platforms this machine can run, and how.
//
// A platform is native when the CPU and the kernel run its programs, or emulated
// when QEMU's user-mode emulator does. Emulation changes nothing on the host: the
// [Machine] makes one identity-mapped user namespace whose private binfmt_misc
// table (Linux 6.7, Documentation/admin-guide/binfmt-misc.rst) starts the
// emulators, and a container that needs them joins it. [Way.Edit] is that whole
// difference, as an edit of the OCI spec.
//
// Older kernels have one table for the whole machine. There, unless a [Policy]
// forbids it, the Machine registers its emulators in that one, under names of its
// own, when a program first needs one, and takes them away at its end. An entry
// that somebody else has made is used as it is, and never touched.
//
// Words: a way is how one platform runs here; a table is a binfmt_misc instance;
// an entry is one line of it; a refusal is a platform that does not run here,
// with the reason and the next step.
//
// The namespace is made by this same program, started again: every main, and
// every TestMain, that uses the package calls [MaybeChild] first.
package qemu
