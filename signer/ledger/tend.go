package ledger

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Stats describes the content of a ledger.
type Stats struct {
	// Entries is how many entries Read would return, and Coarse how many of them are coarse.
	Entries, Coarse int
	// Bytes is the memory that the ledger uses, including its file.
	Bytes int
	// Expires is when the last token of each key expires, by kid.
	Expires map[string]time.Time
}

// room records which cells were free at the last Tend.
type room struct {
	// pages are the pages with a free cell, in ascending order.
	pages []uint32
	next  atomic.Int64
	// fine is how many cells may still be taken for entries that are not coarse.
	fine atomic.Int64
}

// take claims a free cell.
func (r *room) take(t *table, at uint64, coarse bool) (cell int, claimed state, ok bool) {
	if !coarse && r.fine.Add(-1) < 0 {
		return 0, 0, false
	}
	for {
		n := int(r.next.Add(1) - 1)
		if n/pageCells >= len(r.pages) {
			return 0, 0, false
		}
		cell = int(r.pages[n/pageCells])*pageCells + n%pageCells
		if claimed, ok := t.cell(cell).claim(at); ok {
			return cell, claimed, true
		}
	}
}

// reusable is the time, in Unix seconds, of which a cell must be dead to be given away. Reports have a Leeway after
// that to be read. A clock that jumps ahead does not bring it nearer.
func (l *Ledger) reusable() uint64 {
	now := l.now()
	at := min(now.Unix(), l.opened.Add(now.Sub(l.opened)).Unix()) - int64(2*Leeway/time.Second)
	return uint64(max(at, 0))
}

// Tend finds out which cells are free again, and counts. One caller at a time. If the file was broken, or is no longer
// at its path, it fails with ErrBroken, and the ledger should be closed and opened again.
func (l *Ledger) Tend() (Stats, error) {
	if info, err := os.Lstat(l.path); err != nil || !os.SameFile(info, l.info) {
		return Stats{}, fmt.Errorf("%w: another file, or none, is at %s", ErrBroken, l.path)
	}
	var s Stats
	err := l.guard(func() { s = l.census() })
	return s, err
}

func (l *Ledger) census() Stats {
	s, r, at := Stats{Expires: map[string]time.Time{}}, &room{}, l.reusable()
	shown := uint64(max(0, l.now().Add(-Leeway).Unix()))
	used, free := l.table.used(), l.table.cells()
	for page := range l.table.cells() / pageCells {
		has := 0
		for cell := page * pageCells; cell < min(used, (page+1)*pageCells); cell++ {
			if st := l.table.cell(cell).state(); st.kind() == stateWriting || !l.dead(cell, at) {
				has++
			}
			s.count(l.table.cell(cell), shown)
		}
		if free -= has; has < pageCells {
			r.pages = append(r.pages, uint32(page))
		}
	}
	r.fine.Store(int64(free - l.table.cells()/8))
	l.room.Store(r)
	for i := range keyRows {
		s.countKey(l.table.row(i), shown)
	}
	s.countCoarse(l.table.head(headOthers).Load(), shown)
	s.Bytes = fileSize(used) + l.index.bytes() + len(r.pages)*4
	return s
}

func (s *Stats) count(of slot, shown uint64) {
	if st := of.state(); st.kind() != stateLive || st.expiry() < shown {
		return
	}
	c, st, ok := of.read()
	if r, isEntry := c.record(); ok && isEntry && st.expiry() >= shown {
		s.Entries++
		if r.coarse {
			s.Coarse++
		}
	}
}

func (s *Stats) countKey(row slot, shown uint64) {
	c, st, ok := row.read()
	if !ok || st.expiry() < shown {
		return
	}
	kid, expires := kidOf(c), time.Unix(int64(st.expiry()), 0)
	if expires.After(s.Expires[kid]) {
		s.Expires[kid] = expires
	}
	s.countCoarse(c[rowCoarse-1], shown)
}

// countCoarse counts tokens of which next to nothing is noted.
func (s *Stats) countCoarse(expiry, shown uint64) {
	if expiry > 0 && expiry >= shown {
		s.Entries++
		s.Coarse++
	}
}
