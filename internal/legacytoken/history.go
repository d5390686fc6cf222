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
	// someTimes is how often something must happen before it counts as lasting.
	someTimes = 5
	// maxRemembered is how many Secrets a history remembers.
	maxRemembered = 1000
)

// history is what a Refresher remembers about passes and walks with one target. After a restart without it, lasting
// problems are noticed later.
type history struct {
	kid string
	// walks is the number of walks that began.
	walks int
	// troubled is how many passes in a row had writes that failed for a temporary reason.
	troubled int
	// again is how often Secrets were signed again in walks after the first, which is expected once.
	again map[types.UID]int
}

// begin records that a walk begins.
func (h *history) begin(kid string) {
	if h.kid != kid {
		*h = history{kid: kid, again: map[types.UID]int{}}
	}
	h.walks++
}

// passed records the end of a pass.
func (h *history) passed(troubled bool) {
	if !troubled {
		h.troubled = 0
		return
	}
	h.troubled++
}

// lasting reports whether all of the last passes had trouble.
func (h *history) lasting() bool { return h.troubled >= someTimes }

// resigned records that a Secret was signed again, and reports whether somebody keeps restoring its old token.
func (h *history) resigned(secret types.UID) bool {
	if h.walks < 2 || len(h.again) >= maxRemembered && h.again[secret] == 0 {
		return false
	}
	h.again[secret]++
	return h.again[secret] >= someTimes
}

// writerOf returns who last wrote the token of a Secret, according to its managedFields.
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
