package main

import (
	"bytes"
	"cmp"
	"slices"
)

// edit replaces length bytes of a file at an offset.
type edit struct {
	offset, length int
	text           string
	// closing edits end what an edit of the same number began, so that nested pairs stay nested.
	closing bool
	number  int
}

// apply returns the source with all edits made. Of pairs that begin at one offset, the first is the outermost.
func apply(source []byte, edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), compareNesting(a, b))
	})
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(source[at:e.offset])
		out.WriteString(e.text)
		at = e.offset + e.length
	}
	out.Write(source[at:])
	return out.Bytes()
}

func compareNesting(a, b edit) int {
	switch {
	case a.closing && b.closing:
		return b.number - a.number
	case a.closing:
		return -1
	case b.closing:
		return 1
	}
	return a.number - b.number
}
