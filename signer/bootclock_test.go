package signer

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestBootClock compares the clock with the kernel's own word on how long the machine has run.
func TestBootClock(t *testing.T) {
	raw, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(raw), " ")
	up, err := time.ParseDuration(first + "s")
	if err != nil {
		t.Fatal(err)
	}
	before := bootClock()
	if after := bootClock(); before < up || after < before {
		t.Errorf("%s and then %s, %s after the start of the machine", before, after, up)
	}
	if id, err := bootID(); err != nil || len(id) != len("12345678-1234-1234-1234-123456789012") {
		t.Errorf("boot ID %q, %v", id, err)
	}
}
