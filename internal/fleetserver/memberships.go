package fleetserver

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxMemberships = 1000
	maxRequest     = 256 << 10
	// cloudPlatform is the scope that the API of memberships requires.
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
)

// api serves a method of the API to registrars. Its result is answered as JSON.
func (s *Server) api(method func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		principal, err := s.registrar(r)
		var answer any
		if err == nil {
			answer, err = method(r)
		}
		s.logAPI(r, principal, err)
		if err != nil {
			writeError(w, err)
			return
		}
		if tagged, ok := answer.(tagged); ok {
			w.Header().Set("ETag", tagged.tag)
			answer = tagged.membership
		}
		writeJSON(w, http.StatusOK, answer)
	})
}

// tagged is a membership with its ETag.
type tagged struct {
	membership
	tag string
}

// logAPI logs writes and refusals. It logs only valid names.
func (s *Server) logAPI(r *http.Request, principal string, err error) {
	if err == nil && r.Method == http.MethodGet {
		return
	}
	p := placeOf(r)
	if p.id == "" {
		p.id = r.URL.Query().Get("membershipId")
	}
	name := "invalid"
	if p.valid() {
		name = p.name()
	}
	attrs := []any{"method", r.Method, "membership", name, "principal", principal}
	if _, refused := errors.AsType[*apiError](err); refused {
		s.log.Info("refused", append(attrs, "error", err)...)
	} else if err != nil {
		s.log.Error("failed", append(attrs, "error", err)...)
	} else {
		s.log.Info("written", attrs...)
	}
}

// registrar returns whose access token a request has, and whether that account may use the API.
func (s *Server) registrar(r *http.Request) (string, error) {
	g, ok := s.tokens.check(bearer(r))
	if !ok {
		return "", &apiError{
			http.StatusUnauthorized, "UNAUTHENTICATED", "the request has no access token, or one that is not good",
		}
	}
	_, isRegistrar := s.registrars[g.principal]
	if !g.account || !isRegistrar || !slices.Contains(strings.Fields(g.scope), cloudPlatform) {
		return g.principal, &apiError{http.StatusForbidden, "PERMISSION_DENIED",
			"the access token is not that of a registrar, or lacks the scope " + cloudPlatform}
	}
	return g.principal, nil
}

func placeOf(r *http.Request) resourceName {
	return resourceName{project: r.PathValue("project"), location: r.PathValue("location"), id: r.PathValue("membership")}
}

// named returns the valid name in the path of a request.
func named(r *http.Request) (resourceName, error) {
	p := placeOf(r)
	if !p.valid() {
		return p, invalid("the name of the membership is not valid")
	}
	return p, nil
}

// existing returns a membership that is not gone.
func (st *state) existing(p resourceName, now time.Time) (record, error) {
	rec, found := st.Memberships[p.name()]
	if !found || rec.code(now) == "" {
		return record{}, notFound("Resource '%s' was not found", p.name())
	}
	return rec, nil
}

func (rec record) tag() string { return `"` + strconv.FormatInt(rec.Revision, 10) + `"` }

func (s *Server) getMembership(r *http.Request) (any, error) {
	p, err := named(r)
	if err != nil {
		return nil, err
	}
	now := s.now()
	rec, err := s.store.state().existing(p, now)
	if err != nil {
		return nil, err
	}
	return tagged{rec.shown(now), rec.tag()}, nil
}

func (s *Server) listMemberships(r *http.Request) (any, error) {
	p, query := placeOf(r), r.URL.Query()
	anywhere := p.location == "-"
	if anywhere {
		p.location = "global"
	}
	if !p.validParent() {
		return nil, invalid("the parent is not valid")
	}
	if query.Get("filter") != "" || query.Get("orderBy") != "" {
		return nil, invalid("filter and orderBy are not supported by the local fleet")
	}
	prefix := p.parent() + "/memberships/"
	if anywhere {
		prefix = "projects/" + p.project + "/locations/"
	}
	size, after, err := page(query.Get("pageSize"), query.Get("pageToken"))
	if err != nil {
		return nil, err
	}
	now := s.now()
	all := s.store.state().Memberships
	shown, next := []membership{}, ""
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, prefix) || name <= after || all[name].code(now) == "" {
			continue
		}
		if size > 0 && len(shown) == size {
			next = base64.RawURLEncoding.EncodeToString([]byte(shown[size-1].Name))
			break
		}
		shown = append(shown, all[name].shown(now))
	}
	return struct {
		Resources []membership `json:"resources,omitempty"`
		Next      string       `json:"nextPageToken,omitempty"`
	}{shown, next}, nil
}

// page reads how many to list, 0 for all, and after which name.
func page(size, token string) (int, string, error) {
	n := 0
	if size != "" {
		var err error
		if n, err = strconv.Atoi(size); err != nil || n < 0 {
			return 0, "", invalid("pageSize is not a number from 0")
		}
	}
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", invalid("pageToken is not one that was given before")
	}
	return n, string(after), nil
}

// body reads a membership strictly. It ignores fields that only the server sets.
func body(r *http.Request) (membership, error) {
	var m struct {
		membership
		State              json.RawMessage `json:"state"`
		Description        json.RawMessage `json:"description"`
		CreateTime         json.RawMessage `json:"createTime"`
		UpdateTime         json.RawMessage `json:"updateTime"`
		DeleteTime         json.RawMessage `json:"deleteTime"`
		LastConnectionTime json.RawMessage `json:"lastConnectionTime"`
		ClusterTier        json.RawMessage `json:"clusterTier"`
		MembershipType     json.RawMessage `json:"membershipType"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&m)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return m.membership, m.validate()
		}
	}
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		return membership{}, invalid("the request is longer than %d bytes", maxRequest)
	}
	return membership{}, invalid("the body is not the JSON of one membership: %v", err)
}

// write is common to all writes: a repeated request gets its first operation; one that a fault fails changes nothing;
// otherwise change returns the new membership.
func (s *Server) write(
	r *http.Request, p resourceName, verb string, change func(*state, time.Time, faultsNow) (*membership, error),
) (any, error) {
	id, err := requestID(r)
	if err != nil {
		return nil, err
	}
	f, err := s.faults.now()
	if err != nil {
		return nil, err
	}
	var o operation
	err = s.store.update(func(st *state, now time.Time) error {
		var done bool
		if o, done = st.repeated(id, verb, p.name()); done {
			return nil
		}
		o = operation{
			Name: p.parent() + "/operations/operation-" + newUUID(), Verb: verb, Target: p.name(), RequestID: id,
			CreateTime: now, EndTime: now.Add(f.OperationDelay),
		}
		if f.failsOperation() {
			o.Failed = "injected failure"
		} else if o.Result, err = change(st, now, f); err != nil {
			return err
		}
		st.Operations[o.Name] = o
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o.shown(s.now()), nil
}

func (s *Server) createMembership(r *http.Request) (any, error) {
	p := placeOf(r)
	p.id = r.URL.Query().Get("membershipId")
	if !p.valid() {
		return nil, invalid("the parent or membershipId is not valid: an RFC 1123 label of at most 63 characters is needed")
	}
	m, err := body(r)
	if err != nil {
		return nil, err
	}
	return s.write(r, p, verbCreate, func(st *state, now time.Time, f faultsNow) (*membership, error) {
		if rec, found := st.Memberships[p.name()]; found && rec.code(now) != "" {
			return nil, &apiError{http.StatusConflict, "ALREADY_EXISTS", "Resource '" + p.name() + "' already exists"}
		}
		if len(st.Memberships) >= maxMemberships {
			return nil, &apiError{http.StatusTooManyRequests, "RESOURCE_EXHAUSTED", "there are too many memberships"}
		}
		m.Name, m.UniqueID, m.CreateTime = p.name(), newUUID(), &now
		return st.put(p, record{membership: m, Busy: creating}, now, f)
	})
}

func (s *Server) patchMembership(r *http.Request) (any, error) {
	p, err := named(r)
	if err != nil {
		return nil, err
	}
	from, err := body(r)
	if err != nil {
		return nil, err
	}
	mask := r.URL.Query().Get("updateMask")
	return s.write(r, p, verbUpdate, func(st *state, now time.Time, f faultsNow) (*membership, error) {
		rec, err := st.free(r, p, now)
		if err != nil {
			return nil, err
		}
		m, err := rec.patched(mask, from)
		if err != nil {
			return nil, err
		}
		if old := rec.Authority.issuer(); old != "" && m.Authority.issuer() != "" && m.Authority.issuer() != old {
			return nil, failedPrecondition("authority.issuer cannot be modified; clear it first, then set a new one")
		}
		return st.put(p, record{membership: m, Revision: rec.Revision, Busy: updating}, now, f)
	})
}

func (s *Server) deleteMembership(r *http.Request) (any, error) {
	p, err := named(r)
	if err != nil {
		return nil, err
	}
	if _, err := strconv.ParseBool(r.URL.Query().Get("force")); r.URL.Query().Has("force") && err != nil {
		return nil, invalid("force is neither true nor false")
	}
	return s.write(r, p, verbDelete, func(st *state, now time.Time, f faultsNow) (*membership, error) {
		rec, err := st.free(r, p, now)
		if err != nil {
			return nil, err
		}
		rec.Busy, rec.ReadyAt, rec.DeleteTime = deleting, now.Add(f.OperationDelay), &now
		rec.Revision++
		st.Memberships[p.name()] = rec
		return nil, st.setTrust(p.name(), rec.ReadyAt.Add(f.PropagationDelay), nil)
	})
}

// free returns a membership without a running operation, in the revision that the request is for.
func (st *state) free(r *http.Request, p resourceName, now time.Time) (record, error) {
	rec, err := st.existing(p, now)
	if err != nil {
		return rec, err
	}
	if rec.code(now) != ready {
		return rec, &apiError{http.StatusConflict, "ABORTED", "another operation on the membership is not done"}
	}
	if match := r.Header.Get("If-Match"); match != "" && match != "*" && match != rec.tag() {
		return rec, &apiError{
			http.StatusPreconditionFailed, "FAILED_PRECONDITION", "the membership has changed: its ETag is not that of If-Match",
		}
	}
	return rec, nil
}

// put stores a new or changed membership.
func (st *state) put(p resourceName, rec record, now time.Time, f faultsNow) (*membership, error) {
	rec.Authority = rec.Authority.complete(p)
	rec.State, rec.UpdateTime = nil, &now
	rec.Revision++
	rec.ReadyAt = now.Add(f.OperationDelay)
	st.Memberships[p.name()] = rec
	m := rec.membership
	return &m, st.setTrust(p.name(), rec.ReadyAt.Add(f.PropagationDelay), rec.Authority)
}
