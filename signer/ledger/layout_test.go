package ledger

import (
	"slices"
	"sync/atomic"
	"testing"
)

// TestIndex fills one bucket: what is noted is found by its tag, in the place of a dead cell if there is no other.
func TestIndex(t *testing.T) {
	var bucket [bucketSize]atomic.Uint32
	const tag, other = 1 << (32 - tagBits), 2 << (32 - tagBits)
	found := func(tag uint32) (cells []int) {
		_, ok := lookup(&bucket, tag, func(cell int) bool { cells = append(cells, cell); return false })
		if ok {
			t.Error("a cell was found that nobody wanted")
		}
		return cells
	}
	none := func(int) bool { return false }
	if cells := found(0); len(cells) != 0 {
		t.Errorf("an empty bucket has the cells %v", cells)
	}
	note(&bucket, tag, 20, none)
	if cells := found(tag); !slices.Equal(cells, []int{20}) {
		t.Errorf("one cell was noted, and %v are found", cells)
	}
	bucket[0].Store(0)
	var want []int
	for cell := range bucketSize {
		of := uint32(other)
		if cell%2 == 0 {
			of, want = tag, append(want, cell)
		}
		note(&bucket, of, cell, none)
	}
	if cells := found(tag); !slices.Equal(cells, want) {
		t.Errorf("under one tag are %v, want %v", cells, want)
	}
	if cell, ok := lookup(&bucket, tag, func(cell int) bool { return cell == 4 }); cell != 4 || !ok {
		t.Errorf("found %d, %t", cell, ok)
	}
	note(&bucket, tag, 100, func(cell int) bool { return cell == 3 })
	if cells := found(other); slices.Contains(cells, 3) || len(cells) != bucketSize/2-1 ||
		!slices.Contains(found(tag), 100) {
		t.Errorf("in place of a dead cell: %v and %v", cells, found(tag))
	}
	note(&bucket, tag, 2*bucketSize+5, none)
	if cells := found(other); slices.Contains(cells, 5) || !slices.Contains(found(tag), 2*bucketSize+5) {
		t.Errorf("in place of another: %v and %v", cells, found(tag))
	}
}

// TestSameCell reports whether a cell was given to somebody else between two reads of its state.
func TestSameCell(t *testing.T) {
	for _, test := range []struct {
		a, b state
		want bool
	}{
		{liveUntil(5, 1), liveUntil(5, 1), true},
		{liveUntil(5, 1), liveUntil(9, 1), true},
		{liveUntil(5, 1), liveUntil(5, 2), false},
		{liveUntil(5, 1), liveUntil(5, 1) - stateLive, false},
	} {
		if got := test.a.sameAs(test.b); got != test.want {
			t.Errorf("%x and %x are the same: %t", test.a, test.b, got)
		}
	}
	if s := liveUntil(5, 1<<numberBits+7); s.number() != 7 || s.expiry() != 5 || s.kind() != stateLive {
		t.Errorf("number %d, expiry %d, kind %d", s.number(), s.expiry(), s.kind())
	}
}

// TestContent reads what was written, and refuses what is something else.
func TestContent(t *testing.T) {
	whole := slices.Repeat([]byte("x"), pieceSize)
	long := piece(whole, 9)
	text, next, ok := long.text([]byte("a"))
	if string(text) != "a"+string(whole) || next != 9 || !ok {
		t.Errorf("text %q, next %d, %t", text, next, ok)
	}
	longer := long
	longer[0] += 1 << 8
	entry := record{
		row: keyRows - 1, kind: kind(len(kindNames) - 1), coarse: true, account: 1, audiences: 2, name: 3,
	}.content()
	for name, c := range map[string]content{"too long": longer, "an entry": entry} {
		if text, _, ok := c.text([]byte("a")); ok || string(text) != "a" {
			t.Errorf("a text that is %s is %q, %t", name, text, ok)
		}
	}
	if r, ok := entry.record(); !ok || r.row != keyRows-1 || !r.coarse || r.account != 1 || r.audiences != 2 ||
		r.name != 3 {
		t.Errorf("record %+v, %t", r, ok)
	}
	row, of := record{row: keyRows}.content(), record{kind: kind(len(kindNames))}.content()
	for name, c := range map[string]content{"a text": piece(nil, 0), "of no row": row, "of no kind": of} {
		if r, ok := c.record(); ok {
			t.Errorf("a record that is %s is %+v", name, r)
		}
	}
}
