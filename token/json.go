package token

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// reader reads the members of an object and keeps the first error. A missing member reads as zero.
type reader struct {
	members map[string]json.RawMessage
	err     error
}

func (r *reader) fail(name, is string) {
	if r.err == nil {
		r.err = malformed("member " + name + " is not " + is)
	}
}

func (r *reader) text(name string) string {
	raw, has := r.members[name]
	s, ok := strictjson.Text(raw)
	if has && !ok {
		r.fail(name, "a string")
	}
	return s
}

// texts reads an array of strings, or one string for an array of one (RFC 7519, section 4.1.3).
func (r *reader) texts(name string) []string {
	raw, has := r.members[name]
	if !has {
		return nil
	}
	if s, ok := strictjson.Text(raw); ok {
		return []string{s}
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil || elements == nil {
		r.fail(name, "a string or an array of strings")
	}
	all := make([]string, 0, len(elements))
	for _, e := range elements {
		s, ok := strictjson.Text(e)
		if !ok {
			r.fail(name, "a string or an array of strings")
		}
		all = append(all, s)
	}
	return all
}

// lastDate is the last second of the year 9999.
const lastDate = 253402300799

func (r *reader) date(name string) NumericDate {
	raw, has := r.members[name]
	if !has {
		return 0
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(seconds >= 1 && seconds <= lastDate) {
		r.fail(name, "a time after 1970 and before 10000")
		return 0
	}
	return NumericDate(math.Trunc(seconds))
}

// object reads a member that is an object. It returns nil if there is none.
func (r *reader) object(name string) *reader {
	raw, has := r.members[name]
	if !has {
		return nil
	}
	m, err := strictjson.Members(raw)
	if err != nil {
		r.fail(name, "an object with unique member names")
	}
	return &reader{members: m, err: r.err}
}
