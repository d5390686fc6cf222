package ledger

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
)

// Token is what the ledger records of a token. Its byte slices may be reused after Note.
type Token struct {
	KeyID string
	// Namespace and ServiceAccount are empty if the account is unknown.
	Namespace, ServiceAccount []byte
	// Audiences are in ascending order, without duplicates.
	Audiences [][]byte
	// Kind is Pod, Secret or Node; empty if the token is not bound to an object.
	Kind      string
	Name, UID []byte
	// Partial means that some audience or the bound object could not be read.
	Partial bool
	// Expires is in Unix seconds; Never if the token does not expire.
	Expires int64
}

// Never is the expiry of a token that never expires.
const Never int64 = math.MaxInt64

// ErrBroken is returned when the file can no longer be read or written.
var ErrBroken = errors.New("the ledger cannot be written")

// textSlack is how many seconds longer than its tokens a text is kept, so that it is not written again for each of
// them.
const textSlack = 15 * 60

// Note records a token. When it returns, a Report in any process includes the token. Only the loss of the disk or an
// unclean stop of the machine can lose it. It does not block. If the file cannot be written, the error is ErrBroken.
func (l *Ledger) Note(t *Token) error {
	return l.guard(func() { l.note(t, uint64(min(max(t.Expires, 0), never-textSlack))) })
}

// guard calls do. If the kernel cannot provide a page of the file, it ends do and returns ErrBroken.
func (l *Ledger) guard(do func()) (err error) {
	if l.closed.Load() {
		return fmt.Errorf("%w: it is closed", ErrBroken)
	}
	was := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(was)
		fault := recover()
		if fault == nil {
			return
		}
		if _, ok := fault.(interface{ Addr() uintptr }); !ok {
			panic(fault)
		}
		err = fmt.Errorf("%w: its memory cannot be reached", ErrBroken)
	}()
	do()
	runtime.KeepAlive(l)
	return nil
}

// note writes the most detailed entry for which there is room.
func (l *Ledger) note(t *Token, expiry uint64) {
	row, ok := l.row(t.KeyID, expiry)
	if !ok {
		raise(l.table.head(headOthers), expiry)
		return
	}
	if len(t.Namespace) > 0 && (l.noteFine(t, row, expiry) || l.noteAccount(t, row, expiry) ||
		l.noteNamespace(t, row, expiry)) {
		return
	}
	raise(&l.table.row(row).words[rowCoarse], expiry)
}

// noteFine writes an entry with all details.
func (l *Ledger) noteFine(t *Token, row int, expiry uint64) (ok bool) {
	r := record{row: uint8(row), kind: kindOf(t.Kind)}
	if t.Partial {
		return false
	}
	if r.account, ok = l.account(t, expiry, false); !ok {
		return false
	}
	if r.audiences, ok = l.audiences(t, expiry, false); !ok {
		return false
	}
	if r.kind != kindNone {
		if r.name, r.uid, ok = l.object(t, expiry); !ok {
			return false
		}
	}
	return l.entry(r, expiry)
}

// noteAccount writes an entry without the bound object.
func (l *Ledger) noteAccount(t *Token, row int, expiry uint64) (ok bool) {
	r := record{row: uint8(row), coarse: true}
	if r.account, ok = l.account(t, expiry, true); !ok {
		return false
	}
	if r.audiences, ok = l.audiences(t, expiry, true); !ok {
		return false
	}
	return l.entry(r, expiry)
}

func (l *Ledger) noteNamespace(t *Token, row int, expiry uint64) (ok bool) {
	r := record{row: uint8(row), coarse: true}
	if r.account, ok = l.account(&Token{Namespace: t.Namespace}, expiry, true); !ok {
		return false
	}
	return l.entry(r, expiry)
}

func (l *Ledger) entry(r record, expiry uint64) bool {
	c := r.content()
	_, ok := l.intern(&c, expiry, expiry, r.coarse)
	return ok
}

// account is NAMESPACE:NAME.
func (l *Ledger) account(t *Token, expiry uint64, coarse bool) (uint32, bool) {
	var buffer [maxText]byte
	if len(t.Namespace)+len(t.ServiceAccount) >= maxText {
		return 0, false
	}
	text := append(append(append(buffer[:0], t.Namespace...), ':'), t.ServiceAccount...)
	return l.text(text, expiry, coarse)
}

func (l *Ledger) audiences(t *Token, expiry uint64, coarse bool) (uint32, bool) {
	if len(t.Audiences) == 0 {
		return 0, true
	}
	var buffer [maxText]byte
	text, ok := appendList(buffer[:0], t.Audiences...)
	if !ok {
		return 0, false
	}
	return l.text(text, expiry, coarse)
}

// object records a name, and a UID as a number if it has the usual form; else the name is a list of both.
func (l *Ledger) object(t *Token, expiry uint64) (name uint32, uid [2]uint64, ok bool) {
	var buffer [maxText]byte
	text, parts := buffer[:0], [...][]byte{t.Name, t.UID}
	uid, usual := parseUID(t.UID)
	if usual {
		text, ok = appendList(text, parts[:1]...)
	} else {
		text, ok = appendList(text, parts[:]...)
	}
	if !ok {
		return 0, uid, false
	}
	name, ok = l.text(text, expiry, false)
	return name, uid, ok
}

// appendList appends texts, each after its length. It fails if they are too long.
func appendList(to []byte, texts ...[]byte) ([]byte, bool) {
	for _, text := range texts {
		if len(to)+binary.MaxVarintLen16+len(text) > maxText {
			return to, false
		}
		to = append(binary.AppendUvarint(to, uint64(len(text))), text...)
	}
	return to, true
}

// parseUID reads a UID like 3b2a06d5-6c3f-4d10-a0b0-a0f6f3f3b2a0.
func parseUID(text []byte) (uid [2]uint64, ok bool) {
	var digits [32]byte
	if len(text) != 36 {
		return uid, false
	}
	n := 0
	for i, c := range text {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return uid, false
			}
		case c >= 'A' && c <= 'F':
			return uid, false
		default:
			digits[n] = c
			n++
		}
	}
	var raw [16]byte
	if _, err := hex.Decode(raw[:], digits[:]); err != nil {
		return uid, false
	}
	return [2]uint64{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}, true
}

// formatUID is the inverse of parseUID.
func formatUID(uid [2]uint64) string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", uid[0]>>32, uid[0]>>16&0xffff, uid[0]&0xffff, uid[1]>>48,
		uid[1]&(1<<48-1))
}

// text returns a reference to a text. It writes the last piece first, so that a cell never refers to a missing one.
func (l *Ledger) text(text []byte, expiry uint64, coarse bool) (ref uint32, ok bool) {
	for end := len(text); end > 0; {
		begin := (end - 1) / pieceSize * pieceSize
		c := piece(text[begin:end], ref)
		if ref, ok = l.intern(&c, expiry, expiry+textSlack, coarse); !ok {
			return 0, false
		}
		end = begin
	}
	return ref, true
}

// intern returns a reference to a cell with this content that is live until expiry. If the cell has to be written for
// that, its expiry becomes raised. It fails when there is no room.
func (l *Ledger) intern(c *content, expiry, raised uint64, coarse bool) (ref uint32, ok bool) {
	bucket, tag := l.index.find(c)
	holds := func(cell int) bool { return l.table.cell(cell).holds(c, 0, expiry, raised) }
	if cell, ok := lookup(bucket, tag, holds); ok {
		return uint32(cell + 1), true
	}
	at := l.reusable()
	cell, claimed, ok := l.room.Load().take(l.table, at, coarse)
	if !ok {
		return 0, false
	}
	s := l.table.cell(cell)
	s.write(c, 0)
	raise(l.table.head(headUsed), uint64(cell+1))
	s.publish(claimed, raised)
	note(bucket, tag, cell, func(other int) bool { return l.dead(other, at) })
	return uint32(cell + 1), true
}

func (l *Ledger) dead(cell int, at uint64) bool {
	s := l.table.cell(cell).state()
	return s.kind() != stateLive || s.expiry() < at
}

// rowCoarse is the word of a row with the last expiry of tokens of which only the key is recorded.
const rowCoarse = 1

// keyContent is the kid as it is stored in a row, from the second word on.
func keyContent(kid string) (c content, ok bool) {
	if kid == "" || len(kid) > pieceSize {
		return c, false
	}
	c = piece([]byte(kid), 0)
	c[0] = 0
	return c, true
}

// row returns the row of a key, and keeps it live until expiry.
func (l *Ledger) row(kid string, expiry uint64) (row int, ok bool) {
	c, ok := keyContent(kid)
	if !ok {
		return 0, false
	}
	hint := int(l.lastRow.Load())
	if l.table.row(hint).holds(&c, 1, expiry, expiry) {
		return hint, true
	}
	for i := range keyRows {
		if l.table.row(i).holds(&c, 1, expiry, expiry) {
			l.lastRow.Store(int32(i))
			return i, true
		}
	}
	at := l.reusable()
	for i := range keyRows {
		s := l.table.row(i)
		if claimed, ok := s.claim(at); ok {
			s.words[rowCoarse].Store(0)
			s.write(&c, 1)
			s.publish(claimed, expiry)
			l.lastRow.Store(int32(i))
			return i, true
		}
	}
	return 0, false
}
