package fleetserver

import (
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

// maxTokens is how many access tokens can be good at one time.
const maxTokens = 1 << 18

// maxTokenLife is the longest life of an access token.
const maxTokenLife = time.Hour

// errTooManyTokens says that maxTokens is reached.
var errTooManyTokens = errors.New("too many access tokens are good at this time")

// grant is what an access token is good for.
type grant struct {
	principal, scope string
	expires          time.Time
	// account says that it is a service account's, not one of a cluster.
	account bool
}

// tokenLine is one line of the file. One without a principal revokes.
type tokenLine struct {
	SHA256    []byte `json:"sha256"`
	Principal string `json:"principal,omitempty"`
	Scope     string `json:"scope,omitempty"`
	Expires   int64  `json:"expires,omitempty"`
	Account   bool   `json:"account,omitempty"`
}

// tokens are the access tokens that are good, known by their SHA-256 only.
type tokens struct {
	path string
	now  func() time.Time

	mu   sync.Mutex
	live map[[sha256.Size]byte]grant
	file *os.File
	// lines are in the file; it is rewritten when there are limit.
	lines, limit int
	// sweepAt is when a full table may be searched again for expired tokens.
	sweepAt time.Time
}

func openTokens(path string, now func() time.Time) (*tokens, error) {
	t := &tokens{path: path, now: now, live: map[[sha256.Size]byte]grant{}}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading access tokens: %w", err)
	}
	if err := t.load(content); err != nil {
		return nil, fmt.Errorf("reading access tokens from %s: %w\nhint: remove the file; clients then get new access tokens", path, err)
	}
	return t, t.rewrite()
}

// load reads all lines. What follows the last line end is a line that was being written when the machine died: its
// token was never answered.
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
		t.live[hash] = grant{principal: l.Principal, scope: l.Scope, expires: time.Unix(l.Expires, 0), account: l.Account}
	}
}

// issue makes an access token of 256 random bits. It ends at a whole second.
func (t *tokens) issue(g grant) (string, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	g.expires = time.Unix(g.expires.Unix(), 0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.makeRoom(); err != nil {
		return "", err
	}
	if err := t.append(line(hash, g)); err != nil {
		return "", err
	}
	t.live[hash] = g
	return token, nil
}

func (t *tokens) makeRoom() error {
	now := t.now()
	full := len(t.live) >= maxTokens
	if full && now.Before(t.sweepAt) {
		return errTooManyTokens
	}
	if !full && t.lines < t.limit {
		return nil
	}
	t.sweepAt = now.Add(time.Second)
	if err := t.rewrite(); err != nil {
		return err
	}
	if len(t.live) >= maxTokens {
		return errTooManyTokens
	}
	return nil
}

func line(hash [sha256.Size]byte, g grant) tokenLine {
	return tokenLine{SHA256: hash[:], Principal: g.principal, Scope: g.scope, Expires: g.expires.Unix(), Account: g.account}
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
		// A part of the line may be there: begin the file again.
		return errors.Join(fmt.Errorf("keeping access token: %w", err), t.rewrite())
	}
	t.lines++
	return nil
}

// rewrite replaces the file by one of the tokens that are still good.
func (t *tokens) rewrite() error {
	now := t.now()
	maps.DeleteFunc(t.live, func(_ [sha256.Size]byte, g grant) bool { return !now.Before(g.expires) })
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

// check says what an access token is good for.
func (t *tokens) check(token string) (grant, bool) {
	if token == "" {
		return grant{}, false
	}
	hash := sha256.Sum256([]byte(token))
	t.mu.Lock()
	g, known := t.live[hash]
	t.mu.Unlock()
	return g, known && t.now().Before(g.expires)
}

// revoke ends an access token; one that is not known has ended.
func (t *tokens) revoke(token string) error {
	hash := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.live[hash]; !known {
		return nil
	}
	if err := t.append(tokenLine{SHA256: hash[:]}); err != nil {
		return err
	}
	delete(t.live, hash)
	return nil
}

func (t *tokens) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// bearer is the token in the header of a request (RFC 6750, section 2.1), or empty.
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
		writeError(w, &apiError{http.StatusUnauthorized, "UNAUTHENTICATED", "the request has no access token, or one that is not good"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"principal": g.principal, "scope": g.scope, "expiresAt": g.expires.UTC().Format(time.RFC3339),
	})
}
