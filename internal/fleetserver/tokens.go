package fleetserver

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// How many access tokens can be valid at one time: in total, of one membership, and of one principal in a membership.
// The last ones are reserved for registrars, so that no pod keeps the controller from registering clusters.
const (
	maxTokens        = 1 << 16
	maxPerMembership = 1 << 13
	maxPerPrincipal  = 1 << 11
	reserved         = 1 << 11
)

// maxTokenLife is the longest life of an access token.
const maxTokenLife = time.Hour

// errTooManyTokens is the error of issue when a limit is reached.
var errTooManyTokens = errors.New("too many access tokens are valid at this time")

// grant is what an access token allows.
type grant struct {
	principal, scope string
	expires          time.Time
	// membership is the name of the membership whose keys signed the subject token; empty for service accounts.
	membership string
	// account means that it belongs to a service account, not to a cluster.
	account bool
}

// shares returns what an access token counts against, with the limit of each.
func (g grant) shares() map[string]int {
	if g.account {
		return map[string]int{"account " + g.principal: maxPerPrincipal}
	}
	return map[string]int{g.membership: maxPerMembership, g.membership + " " + g.principal: maxPerPrincipal}
}

// tokenLine is one line of the file. One without a principal is a revocation.
type tokenLine struct {
	SHA256     []byte `json:"sha256"`
	Principal  string `json:"principal,omitempty"`
	Scope      string `json:"scope,omitempty"`
	Expires    int64  `json:"expires,omitempty"`
	Membership string `json:"membership,omitempty"`
	Account    bool   `json:"account,omitempty"`
}

// tokens are the valid access tokens. The file has only their SHA-256.
type tokens struct {
	path string
	now  func() time.Time

	// writing is held to change the file and the fields up to mu. Checks of access tokens do not wait for it.
	writing sync.Mutex
	file    *os.File
	// lines is the number of lines in the file; it is rewritten when that reaches limit.
	lines, limit int
	// sweepAt is when a full table may next be searched for expired tokens.
	sweepAt time.Time
	// used counts the tokens of each share.
	used map[string]int
	// answers are the access tokens given for each subject token, by the SHA-256 of the request.
	answers map[[sha256.Size]byte]string

	mu   sync.RWMutex
	live map[[sha256.Size]byte]grant
}

func openTokens(path string, now func() time.Time) (*tokens, error) {
	t := &tokens{path: path, now: now, live: map[[sha256.Size]byte]grant{}, answers: map[[sha256.Size]byte]string{}}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading access tokens: %w", err)
	}
	if err := t.load(content); err != nil {
		return nil, hint.Errorf("remove the file; clients then get new access tokens",
			"reading access tokens from %s: %w", path, err)
	}
	t.sweep()
	return t, t.rewrite()
}

// load reads all lines. Text after the last line end was being written when the machine died: its token was never
// answered.
func (t *tokens) load(content []byte) error {
	for number := 1; ; number++ {
		line, rest, whole := bytes.Cut(content, []byte("\n"))
		if !whole {
			return nil
		}
		content = rest
		var l tokenLine
		if err := json.Unmarshal(line, &l); err != nil || len(l.SHA256) != sha256.Size {
			return fmt.Errorf("line %d is not one of an access token", number)
		}
		hash := [sha256.Size]byte(l.SHA256)
		if l.Principal == "" {
			delete(t.live, hash)
			continue
		}
		t.live[hash] = grant{
			principal: l.Principal, scope: l.Scope, expires: time.Unix(l.Expires, 0), membership: l.Membership,
			account: l.Account,
		}
	}
}

// issue makes an access token of 256 random bits, which expires at a whole second. The same request gets the same token
// again while it is valid.
func (t *tokens) issue(g grant, request ...string) (string, grant, error) {
	g.expires = time.Unix(g.expires.Unix(), 0)
	asked := sha256.Sum256([]byte(strings.Join(append(request, g.principal, g.scope), "\x00")))
	t.writing.Lock()
	defer t.writing.Unlock()
	if was, good := t.check(t.answers[asked]); good && t.file != nil {
		return t.answers[asked], was, nil
	}
	if err := t.makeRoom(g); err != nil {
		return "", grant{}, err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	if err := t.append(line(hash, g)); err != nil {
		return "", grant{}, err
	}
	t.mu.Lock()
	t.live[hash] = g
	t.mu.Unlock()
	t.count(g, 1)
	t.answers[asked] = token
	return token, g, nil
}

func (t *tokens) count(g grant, n int) {
	for share := range g.shares() {
		t.used[share] += n
	}
}

// makeRoom ensures that one more access token is within all limits, and that its line may be added to the file.
func (t *tokens) makeRoom(g grant) error {
	if now := t.now(); t.isFull(g) && !now.Before(t.sweepAt) {
		t.sweepAt = now.Add(time.Second)
		t.sweep()
	}
	if t.isFull(g) {
		return errTooManyTokens
	}
	if t.lines >= t.limit {
		t.sweep()
		return t.rewrite()
	}
	return nil
}

func (t *tokens) isFull(g grant) bool {
	all := maxTokens
	if !g.account {
		all -= reserved
	}
	if len(t.live) >= all { // nobody else changes its size
		return true
	}
	for share, bound := range g.shares() {
		if t.used[share] >= bound {
			return true
		}
	}
	return false
}

// sweep drops expired tokens.
func (t *tokens) sweep() {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.live, func(_ [sha256.Size]byte, g grant) bool { return !now.Before(g.expires) })
	maps.DeleteFunc(t.answers, func(_ [sha256.Size]byte, token string) bool {
		_, known := t.live[sha256.Sum256([]byte(token))]
		return !known
	})
	t.used = map[string]int{}
	for _, g := range t.live {
		t.count(g, 1)
	}
}

func line(hash [sha256.Size]byte, g grant) tokenLine {
	return tokenLine{
		SHA256: hash[:], Principal: g.principal, Scope: g.scope, Expires: g.expires.Unix(), Membership: g.membership,
		Account: g.account,
	}
}

// append writes a line to the kernel: kill -9 does not lose it.
func (t *tokens) append(l tokenLine) error {
	content, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encoding access token: %w", err)
	}
	if t.file == nil {
		return errors.New("keeping access token: the server is closed")
	}
	if _, err := t.file.Write(append(content, '\n')); err != nil {
		// A part of the line may have been written, so the file is rewritten.
		return errors.Join(fmt.Errorf("keeping access token: %w", err), t.rewrite())
	}
	t.lines++
	return nil
}

// rewrite replaces the file by one with only the live tokens.
func (t *tokens) rewrite() error {
	var content bytes.Buffer
	e := json.NewEncoder(&content)
	for hash, g := range t.live {
		if err := e.Encode(line(hash, g)); err != nil {
			return fmt.Errorf("encoding access tokens: %w", err)
		}
	}
	if err := atomicfile.Write(t.path, content.Bytes()); err != nil {
		return err
	}
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("keeping access tokens: %w", err)
	}
	if t.file != nil {
		_ = t.file.Close()
	}
	t.file, t.lines = f, len(t.live)
	t.limit = 2*t.lines + 1024
	return nil
}

// check returns what an access token allows.
func (t *tokens) check(token string) (grant, bool) {
	if token == "" {
		return grant{}, false
	}
	hash := sha256.Sum256([]byte(token))
	t.mu.RLock()
	g, known := t.live[hash]
	t.mu.RUnlock()
	return g, known && t.now().Before(g.expires)
}

// revoke ends an access token; an unknown one has already ended.
func (t *tokens) revoke(token string) error {
	hash := sha256.Sum256([]byte(token))
	t.writing.Lock()
	defer t.writing.Unlock()
	g, known := t.live[hash]
	if !known {
		return nil
	}
	if err := t.append(tokenLine{SHA256: hash[:]}); err != nil {
		return err
	}
	t.mu.Lock()
	delete(t.live, hash)
	t.mu.Unlock()
	t.count(g, -1)
	return nil
}

func (t *tokens) close() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// bearer returns the token in the header of a request (RFC 6750, section 2.1), or an empty string.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// whoami answers whose access token it was shown.
func (s *Server) whoami(w http.ResponseWriter, r *http.Request) {
	g, ok := s.tokens.check(bearer(r))
	if !ok {
		writeError(w,
			&apiError{http.StatusUnauthorized, "UNAUTHENTICATED", "the request has no access token, or one that is not good"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"principal": g.principal, "scope": g.scope, "expiresAt": g.expires.UTC().Format(time.RFC3339),
	})
}
