package ledger

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is returned by Read for a file that is not a ledger of this version, is a copy, or may be incomplete
// since the machine stopped before it was on disk. The next Open replaces it.
var ErrUntrusted = errors.New("the ledger cannot be trusted")

// Read reads the ledger at a path, while signers may write to it. The report includes what was recorded before the
// call, unless it had expired more than Leeway before now. If there is no file, the error is fs.ErrNotExist.
func Read(path string, now time.Time) (Report, error) {
	r, err := read(path, now, systemEnvironment())
	if unusable := new(unusableError); errors.As(err, &unusable) {
		err = fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if err != nil {
		return Report{}, fmt.Errorf("reading the ledger %s: %w", path, err)
	}
	return r, nil
}

func read(path string, now time.Time, env environment) (r Report, err error) {
	boot, err := env.boot()
	if err != nil {
		return r, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if pathErr := new(fs.PathError); errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return r, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(fileSize(env.cells)) {
		return r, &unusableError{"it is not a file of the size of a ledger"}
	}
	t, err := mapTable(f.Fd(), env.cells, unix.PROT_READ)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, t.unmap()) }()
	was := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(was)
		if fault := recover(); fault != nil {
			if _, ok := fault.(interface{ Addr() uintptr }); !ok {
				panic(fault)
			}
			err = ErrBroken
		}
	}()
	if err := t.check(info, boot); err != nil {
		return r, err
	}
	return t.report(max(0, now.Add(-Leeway).Unix())), nil
}

// reader converts cells to entries.
type reader struct {
	*table
	// texts are the texts by reference, and kids the key IDs of rows.
	texts map[uint32]string
	kids  [keyRows]string
	// found are the expiries by entry. Two processes may have written the same one.
	found map[identity]uint64
}

// identity distinguishes entries. Its texts are encoded as in the file.
type identity struct {
	kid, account, audiences string
	kind                    kind
	name                    string
	uid                     [2]uint64
	coarse                  bool
}

// report returns what expires at from, in Unix seconds, or later.
func (t *table) report(from int64) Report {
	r := &reader{table: t, texts: map[uint32]string{}, found: map[identity]uint64{}}
	for i := range keyRows {
		c, st, ok := t.row(i).read()
		if !ok || st.expiry() < uint64(from) {
			continue
		}
		r.kids[i] = kidOf(c)
		r.note(identity{kid: r.kids[i], coarse: true}, c[rowCoarse-1], from)
	}
	r.note(identity{coarse: true}, t.head(headOthers).Load(), from)
	for i := range t.used() {
		c, st, ok := t.cell(i).read()
		if entry, isEntry := c.record(); ok && isEntry {
			r.noteEntry(entry, st.expiry(), from)
		}
	}
	return Report{Since: time.Unix(int64(t.head(headSince).Load()), 0).UTC(), Entries: r.entries()}
}

func (r *reader) note(id identity, expiry uint64, from int64) {
	if expiry > 0 && expiry >= uint64(from) {
		r.found[id] = max(r.found[id], expiry)
	}
}

// noteEntry adds an entry, without its damaged parts.
func (r *reader) noteEntry(e record, expiry uint64, from int64) {
	if expiry < uint64(from) {
		return
	}
	id := identity{kid: r.kid(int(e.row)), kind: e.kind, uid: e.uid, coarse: e.coarse}
	var ok [3]bool
	id.account, ok[0] = r.text(e.account)
	id.audiences, ok[1] = r.text(e.audiences)
	id.name, ok[2] = r.text(e.name)
	if ok != [3]bool{true, true, true} || id.kid == "" || !id.valid() {
		id = identity{kid: id.kid, coarse: true}
	}
	r.note(id, expiry, from)
}

// kid returns the key ID of a row, which another process may have claimed after the rows were read.
func (r *reader) kid(row int) string {
	if r.kids[row] == "" {
		if c, _, ok := r.row(row).read(); ok {
			r.kids[row] = kidOf(c)
		}
	}
	return r.kids[row]
}

func kidOf(row content) string {
	row[0] = contentText | pieceSize<<8
	text, _, _ := row.text(nil)
	return strings.TrimRight(string(text), "\x00")
}

// text reads a text. Its pieces live at least as long as what refers to them.
func (r *reader) text(ref uint32) (string, bool) {
	if text, ok := r.texts[ref]; ok || ref == 0 {
		return text, true
	}
	var text []byte
	for next := ref; next != 0; {
		if int(next) > r.cells() || len(text) > maxText {
			return "", false
		}
		c, _, ok := r.cell(int(next - 1)).read()
		if !ok {
			return "", false
		}
		if text, next, ok = c.text(text); !ok {
			return "", false
		}
	}
	r.texts[ref] = string(text)
	return r.texts[ref], true
}

func (id identity) valid() bool {
	if !strings.Contains(id.account, ":") {
		return false
	}
	_, ok := id.list(id.audiences)
	if id.kind == kindNone {
		return ok
	}
	name, nameOK := id.list(id.name)
	return ok && nameOK && len(name) >= 1 && len(name) <= 2
}

// list splits the output of appendList.
func (identity) list(text string) (all []string, ok bool) {
	for rest := []byte(text); len(rest) > 0; {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return nil, false
		}
		all = append(all, string(rest[n:n+int(size)]))
		rest = rest[n+int(size):]
	}
	return all, true
}

func (r *reader) entries() []Entry {
	all := make([]Entry, 0, len(r.found))
	audiences := map[string][]string{}
	for id, expiry := range r.found {
		if _, ok := audiences[id.audiences]; !ok {
			audiences[id.audiences], _ = id.list(id.audiences)
		}
		e := Entry{
			KeyID: id.kid, Audiences: audiences[id.audiences], Coarse: id.coarse, Expires: time.Unix(int64(expiry), 0).UTC(),
		}
		e.Namespace, e.ServiceAccount, _ = strings.Cut(id.account, ":")
		e.Bound = id.object()
		all = append(all, e)
	}
	slices.SortFunc(all, Entry.compare)
	return all
}

func (id identity) object() *Object {
	if id.kind == kindNone {
		return nil
	}
	name, _ := id.list(id.name)
	o := &Object{Kind: kindNames[id.kind], Name: name[0], UID: formatUID(id.uid)}
	if len(name) == 2 {
		o.UID = name[1]
	}
	return o
}

// compare orders entries.
func (e Entry) compare(other Entry) int {
	object := func(e Entry) Object {
		if e.Bound == nil {
			return Object{}
		}
		return *e.Bound
	}
	a, b := object(e), object(other)
	return cmp.Or(
		cmp.Compare(e.KeyID, other.KeyID), cmp.Compare(e.Namespace, other.Namespace),
		cmp.Compare(e.ServiceAccount, other.ServiceAccount), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.UID, b.UID), slices.Compare(e.Audiences, other.Audiences),
		e.Expires.Compare(other.Expires),
	)
}
