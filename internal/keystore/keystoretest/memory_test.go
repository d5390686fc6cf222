package keystoretest

import (
	"testing"

	"github.com/keyturn/keyturn/internal/keystore"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T, ...string) keystore.Store { return &Memory{} })
}
