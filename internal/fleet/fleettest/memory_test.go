package fleettest

import (
	"testing"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/jwks"
)

func TestMemory(t *testing.T) {
	Run(t, Fixture{New: func(*testing.T) Destination {
		m := &Memory{}
		return Destination{
			Publisher: func(*testing.T) fleet.Publisher { return m },
			Writes:    m.Writes,
			Fail:      func(_ *testing.T, fault faults.Fault) { m.Fail(fault) },
			AddKey:    func(_ *testing.T, k jwks.Key) { m.AddKey(k) },
		}
	}})
}
