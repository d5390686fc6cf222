package legacytoken

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/printable"
)

const (
	// someTimes is how often the same has to happen until it counts as what will go on.
	someTimes = 5
	// maxRemembered bounds how many Secrets a history knows.
	maxRemembered = 1000
)

// history is what a Refresher remembers of passes and walks with one target. Without it, after a restart, what lasts is
// noticed later.
type history struct {
	kid string
	// walks is how many were begun.
	walks int
	// troubled is how many passes in a row had writes that failed for a reason that may pass.
	troubled int
	// again is how often Secrets were re-signed in other walks than the first, which is what has to be done once.
	again map[types.UID]int
}

// begin notes that a walk begins.
func (h *history) begin(kid string) {
	if h.kid != kid {
		*h = history{kid: kid, again: map[types.UID]int{}}
	}
	h.walks++
}

// passed notes the end of a pass.
func (h *history) passed(troubled bool) {
	if !troubled {
		h.troubled = 0
		return
	}
	h.troubled++
}

// lasting reports whether all of the last passes had trouble.
func (h *history) lasting() bool { return h.troubled >= someTimes }

// resigned notes that a Secret was re-signed, and reports whether somebody brings its old token back again and again.
func (h *history) resigned(secret types.UID) bool {
	if h.walks < 2 || len(h.again) >= maxRemembered && h.again[secret] == 0 {
		return false
	}
	h.again[secret]++
	return h.again[secret] >= someTimes
}

// writerOf returns who wrote the token of a Secret last, as its managedFields name him.
func writerOf(s *corev1.Secret) string {
	var writer string
	var at time.Time
	for _, m := range s.ManagedFields {
		wrote := m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), `"f:token"`)
		if wrote && m.Manager != fieldManager && m.Time != nil && !m.Time.Time.Before(at) {
			writer, at = printable.Line(m.Manager), m.Time.Time
		}
	}
	return cmp.Or(strconv.Quote(writer), "that nobody knows")
}
