package ledger

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The file is an array of 64-bit words in the byte order of the machine: a page with the header, a page with one row
// for each key, and cells of eight words. A row or cell begins with its state.
const (
	wordSize  = 8
	cellWords = 8
	pageWords = 512
	pageCells = pageWords / cellWords
	keyRows   = pageWords / cellWords

	// fullSize is the number of cells of a ledger: 8 MiB.
	fullSize = 1 << 17

	// magic ends with the version of the format.
	magic uint64 = 'K'<<56 | 'T'<<48 | 'L'<<40 | 'E'<<32 | 'D'<<24 | 'G'<<16 | 'R'<<8 | '1'
)

// The words of the header.
const (
	headMagic = iota
	// headCells is the number of cells.
	headCells
	// headInode is the inode number of the file, which differs in a copy.
	headInode
	// headBoot is the boot in which the file was last written, in two words.
	headBoot
	_
	// headClean is 1 while everything is on disk and no signer has the file open.
	headClean
	// headSince is since when all tokens are recorded, in Unix seconds.
	headSince
	// headUsed is how many cells were ever used, counted from the first.
	headUsed
	// headOthers is the last expiry of tokens whose key has no row.
	headOthers
)

// state is the first word of a cell: when its content expires, in Unix seconds, how often the cell was reused, and its
// kind. The content, once written, does not change until the cell is reused.
type state uint64

const (
	stateFree    = 0
	stateWriting = 1
	stateLive    = 2

	kindBits   = 2
	numberBits = 26
	expiryBits = 64 - kindBits - numberBits
	// never is the expiry of tokens that never expire: in the year 4147.
	never = 1<<expiryBits - 1
)

func liveUntil(expiry uint64, number state) state {
	return state(expiry)<<(kindBits+numberBits) | number<<kindBits&(1<<(kindBits+numberBits)-1) | stateLive
}

func (s state) kind() state    { return s & (1<<kindBits - 1) }
func (s state) number() state  { return s >> kindBits & (1<<numberBits - 1) }
func (s state) expiry() uint64 { return uint64(s >> (kindBits + numberBits)) }

// sameAs reports whether the cell was not reused between two reads of its state.
func (s state) sameAs(other state) bool {
	return s.kind() == other.kind() && s.number() == other.number()
}

// content is the rest of a cell after its state: a piece of text, or an entry.
type content [cellWords - 1]uint64

// The kinds of content, in the lowest byte of the first word.
const (
	contentText  = 1
	contentEntry = 2
)

const (
	// pieceSize is the number of text bytes in a cell.
	pieceSize = (cellWords - 2) * wordSize
	// maxText is the longest text. Longer ones are not recorded.
	maxText = 1 << 9
)

// piece returns one piece of a text, of pieceSize bytes at most. next is the reference of the piece that follows, or 0.
func piece(text []byte, next uint32) (c content) {
	c[0] = contentText | uint64(len(text))<<8 | uint64(next)<<32
	var padded [pieceSize]byte
	copy(padded[:], text)
	for i := range cellWords - 2 {
		c[1+i] = binary.LittleEndian.Uint64(padded[i*wordSize:])
	}
	return c
}

// text appends the text of a piece, and returns the reference of the next one.
func (c *content) text(to []byte) (_ []byte, next uint32, ok bool) {
	size := int(c[0] >> 8 & 0xff)
	if c[0]&0xff != contentText || size > pieceSize {
		return to, 0, false
	}
	var padded [pieceSize]byte
	for i := range cellWords - 2 {
		binary.LittleEndian.PutUint64(padded[i*wordSize:], c[1+i])
	}
	return append(to, padded[:size]...), uint32(c[0] >> 32), true
}

// record is an entry as content. References are the numbers of cells, from 1; 0 means none.
type record struct {
	row                      uint8
	kind                     kind
	coarse                   bool
	account, audiences, name uint32
	uid                      [2]uint64
}

func (r record) content() (c content) {
	c[0] = contentEntry | uint64(r.kind)<<8 | uint64(r.row)<<24
	if r.coarse {
		c[0] |= 1 << 16
	}
	c[1] = uint64(r.account) | uint64(r.audiences)<<32
	c[2] = uint64(r.name)
	c[3], c[4] = r.uid[0], r.uid[1]
	return c
}

func (c *content) record() (record, bool) {
	r := record{
		row: uint8(c[0] >> 24), kind: kind(c[0] >> 8), coarse: c[0]>>16&1 == 1,
		account: uint32(c[1]), audiences: uint32(c[1] >> 32), name: uint32(c[2]), uid: [2]uint64{c[3], c[4]},
	}
	return r, c[0]&0xff == contentEntry && r.row < keyRows && int(r.kind) < len(kindNames)
}

// kind is the kind of a bound object.
type kind uint8

const (
	kindNone kind = iota
	kindPod
	kindSecret
	kindNode
)

var kindNames = [...]string{kindNone: "", kindPod: "Pod", kindSecret: "Secret", kindNode: "Node"}

func kindOf(name string) kind {
	for k, n := range kindNames {
		if n == name {
			return kind(k)
		}
	}
	return kindNone
}

// slot is a row or a cell.
type slot struct{ words *[cellWords]atomic.Uint64 }

func (s slot) state() state { return state(s.words[0].Load()) }

func (s slot) change(from, to state) bool { return s.words[0].CompareAndSwap(uint64(from), uint64(to)) }

// claim takes a slot whose content is no longer live at a time. The caller writes it, and then publishes it.
func (s slot) claim(at uint64) (state, bool) {
	was := s.state()
	if was.kind() == stateWriting || was.kind() == stateLive && was.expiry() >= at {
		return 0, false
	}
	next := (was.number()+1)<<kindBits&(1<<(kindBits+numberBits)-1) | stateWriting
	return next, s.change(was, next)
}

func (s slot) publish(claimed state, expiry uint64) {
	s.words[0].Store(uint64(liveUntil(expiry, claimed.number())))
}

func (s slot) write(c *content, from int) {
	for i := from; i < len(c); i++ {
		s.words[1+i].Store(c[i])
	}
}

// holds reports whether the slot has this content, comparing words from the given one, and is live until expiry. If it
// expires earlier, its expiry becomes raised.
func (s slot) holds(c *content, from int, expiry, raised uint64) bool {
	for {
		was := s.state()
		if was.kind() != stateLive || !s.has(c, from) {
			return false
		}
		if was.expiry() >= expiry {
			if s.state().sameAs(was) {
				return true
			}
		} else if s.change(was, liveUntil(raised, was.number())) {
			return true
		}
	}
}

func (s slot) has(c *content, from int) bool {
	for i := from; i < len(c); i++ {
		if s.words[1+i].Load() != c[i] {
			return false
		}
	}
	return true
}

// read returns the content of a slot, if it is live.
func (s slot) read() (c content, st state, ok bool) {
	for {
		was := s.state()
		if was.kind() != stateLive {
			return c, was, false
		}
		for i := range c {
			c[i] = s.words[1+i].Load()
		}
		if st = s.state(); st.sameAs(was) {
			return c, st, true
		}
	}
}

// raise makes a word at least that large.
func raise(w *atomic.Uint64, to uint64) {
	for was := w.Load(); was < to && !w.CompareAndSwap(was, to); was = w.Load() {
	}
}

// table is a file mapped into memory.
type table struct {
	bytes []byte
	words []atomic.Uint64
}

func fileSize(cells int) int { return (2*pageWords + cells*cellWords) * wordSize }

// mapTable maps a file of this size. The mapping lasts until unmap.
func mapTable(fd uintptr, cells, protection int) (*table, error) {
	b, err := unix.Mmap(int(fd), 0, fileSize(cells), protection, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	return &table{bytes: b, words: unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&b[0])), len(b)/wordSize)}, nil
}

func (t *table) unmap() error { return unix.Munmap(t.bytes) }

func (t *table) head(word int) *atomic.Uint64 { return &t.words[word] }

func (t *table) slot(at int) slot {
	return slot{(*[cellWords]atomic.Uint64)(t.words[at : at+cellWords])}
}

func (t *table) row(i int) slot  { return t.slot(pageWords + i*cellWords) }
func (t *table) cell(i int) slot { return t.slot(2*pageWords + i*cellWords) }
func (t *table) cells() int      { return len(t.words)/cellWords - 2*keyRows }

// used returns how many cells were ever used.
func (t *table) used() int { return int(min(t.head(headUsed).Load(), uint64(t.cells()))) }
