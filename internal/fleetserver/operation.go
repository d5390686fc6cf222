package fleetserver

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"regexp"
	"time"
)

// operation is one stored write. It is done after a certain time.
type operation struct {
	Name       string    `json:"name"`
	Verb       string    `json:"verb"`
	Target     string    `json:"target"`
	RequestID  string    `json:"requestId,omitempty"`
	CreateTime time.Time `json:"createTime"`
	EndTime    time.Time `json:"endTime"`
	// Result is the membership afterwards; nil after a deletion.
	Result *membership `json:"result,omitempty"`
	// Failed is the message of an operation that changed nothing.
	Failed string `json:"failed,omitempty"`
}

const (
	verbCreate = "create"
	verbUpdate = "update"
	verbDelete = "delete"
)

// The types of an operation's content.
const (
	typePrefix   = "type.googleapis.com/"
	typeMetadata = typePrefix + "google.cloud.gkehub.v1.OperationMetadata"
	typeResult   = typePrefix + "google.cloud.gkehub.v1.Membership"
	typeEmpty    = typePrefix + "google.protobuf.Empty"
)

// codeInternal is google.rpc.Code.INTERNAL.
const codeInternal = 13

// metadata is google.cloud.gkehub.v1.OperationMetadata.
type metadata struct {
	Type            string     `json:"@type"`
	CreateTime      time.Time  `json:"createTime"`
	EndTime         *time.Time `json:"endTime,omitempty"`
	Target          string     `json:"target"`
	Verb            string     `json:"verb"`
	CancelRequested bool       `json:"cancelRequested"`
	APIVersion      string     `json:"apiVersion"`
}

// shown is the operation in the form of google.longrunning.Operation.
func (o operation) shown(now time.Time) map[string]any {
	about := metadata{Type: typeMetadata, CreateTime: o.CreateTime, Target: o.Target, Verb: o.Verb, APIVersion: "v1"}
	if now.Before(o.EndTime) {
		return map[string]any{"name": o.Name, "metadata": about, "done": false}
	}
	about.EndTime = &o.EndTime
	answer := map[string]any{"name": o.Name, "metadata": about, "done": true}
	switch {
	case o.Failed != "":
		answer["error"] = map[string]any{"code": codeInternal, "message": o.Failed}
	case o.Result == nil:
		answer["response"] = map[string]any{"@type": typeEmpty}
	default:
		m := *o.Result
		m.State = &membershipState{Code: ready}
		answer["response"] = struct {
			Type string `json:"@type"`
			membership
		}{typeResult, m}
	}
	return answer
}

// uuidPattern matches request IDs.
var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

const zeroUUID = "00000000-0000-0000-0000-000000000000"

// requestID reads the parameter that identifies a repeated write.
func requestID(r *http.Request) (string, error) {
	id := r.URL.Query().Get("requestId")
	if id != "" && (!uuidPattern.MatchString(id) || id == zeroUUID) {
		return "", invalid("requestId is not a UUID other than zero")
	}
	return id, nil
}

// repeated finds the operation that a request began when it was first sent.
func (st *state) repeated(id, verb, target string) (operation, bool) {
	if id == "" {
		return operation{}, false
	}
	for _, o := range st.Operations {
		if o.RequestID == id && o.Verb == verb && o.Target == target {
			return o, true
		}
	}
	return operation{}, false
}

func (s *Server) getOperation(r *http.Request) (any, error) {
	p := resourceName{project: r.PathValue("project"), location: r.PathValue("location")}
	name := p.parent() + "/operations/" + r.PathValue("operation")
	o, found := s.store.state().Operations[name]
	if !found {
		return nil, notFound("there is no such operation, or it ended long ago")
	}
	return o.shown(s.now()), nil
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
