// Package payload holds the programs that gantry carries inside its own binary,
// so that the one file is enough on a machine that has nothing installed: runc,
// and QEMU's user-mode emulators for the architectures that are not the machine's.
//
// payload.mk builds or fetches them and the program in pack compresses them
// into bin/ARCH, with a manifest of what they are. A build without them compiles and
// runs too; asking for a program is then the error.
package payload
