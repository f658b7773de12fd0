package solver

// BuildkitVersion is the version of the embedded BuildKit, as clients are told. A test holds it
// against go.mod.
const BuildkitVersion = "v0.34.2"
