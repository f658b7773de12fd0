package runner

import (
	"fmt"
	mathrand "math/rand/v2"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// RandomName is a name for something that its user has given none; it may be taken.
func RandomName() string { return madeUpName(0) }

// reserve takes a name for id, making one up when it is empty. errdefs.ErrConflict with Docker's
// text when another container has it.
func (m *Manager) reserve(name, id string) (string, error) {
	if name != "" && !spec.ValidName(name) {
		return "", fault.Invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if name != "" {
		if other := m.names[name]; other != "" && other != id {
			return "", nameTaken(name, other)
		}
		m.names[name] = id
		return name, nil
	}
	for try := 0; ; try++ {
		name = madeUpName(try)
		if m.names[name] == "" {
			m.names[name] = id
			return name, nil
		}
	}
}

func nameTaken(name, owner string) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
		"Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to "+
			"reuse that name.",
		"/"+name, owner))
}

func (m *Manager) unreserve(name, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == id {
		delete(m.names, name)
	}
}

// madeUpName is what cranes do and who built with stone, steel and water; later tries get a number.
func madeUpName(try int) string {
	how, who := adjectives(), builders()
	name := how[mathrand.IntN(len(how))] + "_" + who[mathrand.IntN(len(who))]
	if try > 4 {
		name += fmt.Sprint(mathrand.IntN(10 * try))
	}
	return name
}

func adjectives() []string {
	return []string{
		"able", "airy", "ample", "bold", "brisk", "calm", "candid", "careful", "clever", "daring", "deft", "eager",
		"early", "even", "fair", "fleet", "frank", "gentle", "glad", "grand", "handy", "hardy", "hearty", "honest",
		"humble", "jolly", "keen", "kind", "level", "light", "lively", "loyal", "lucid", "merry", "mighty", "mild",
		"modest", "neat", "nimble", "noble", "patient", "plain", "prompt", "proud", "quick", "quiet", "ready",
		"robust", "rugged", "serene", "sharp", "sleek", "snug", "solid", "sound", "spry", "stable", "steady",
		"stout", "sturdy", "sunny", "swift", "tidy", "trusty", "upright", "vivid", "warm", "wise", "witty", "zesty",
	}
}

func builders() []string {
	return []string{
		"aalto", "ammann", "arup", "baker", "barlow", "bazalgette", "belanger", "brindley", "brunel", "brunelleschi",
		"candela", "clark", "coignet", "cubitt", "dieste", "eads", "eiffel", "ellet", "fairbairn", "finsterwalder",
		"fowler", "freyssinet", "gaudi", "goethals", "hadid", "hennebique", "imhotep", "isler", "isozaki", "jessop",
		"kahn", "khan", "labelye", "leonhardt", "maillart", "menn", "monier", "morandi", "navier", "nervi",
		"otto", "otis", "palladio", "paxton", "perronet", "rennie", "robertson", "roebling", "sinan", "smeaton",
		"shukhov", "steinman", "stephenson", "suger", "tange", "telford", "torroja", "trajan", "vauban", "vitruvius",
		"warren", "watt", "weidlinger", "wren", "wright", "zhao",
	}
}
