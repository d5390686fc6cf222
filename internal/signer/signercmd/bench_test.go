package signercmd

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	externaljwt "k8s.io/externaljwt/apis/v1"
)

// BenchmarkMemory signs with the whole program, and reports how much memory the parent and the child had in use at
// most. The test binary is larger than the program, which needs some megabytes less.
func BenchmarkMemory(b *testing.B) {
	w := newWorld(b)
	w.start()
	w.eventuallySigns()
	request := &externaljwt.SignJWTRequest{
		Claims: base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:default:web"}`)),
	}
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := w.client().Sign(b.Context(), request); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(peak(b, w.awaitChild(0)), "child-MB")
	b.ReportMetric(peak(b, w.cmd.Process.Pid), "parent-MB")
}

// peak returns the largest resident memory of a process so far, in MB.
func peak(b *testing.B, pid int) float64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	var kB float64
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		b.Fatal(err)
	}
	return kB / 1024
}
