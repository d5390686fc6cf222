package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/token"
)

// maxAnswer is the most bytes that are read of an answer.
const maxAnswer = 64 << 10

// anonymous is the user of a request without a token.
const anonymous = "system:anonymous"

// Files are the paths of the token files.
type Files struct {
	Bound, Legacy, ThirdParty string
	// identity is the path of the token that is exchanged at the STS, from the credentials file.
	identity string
	// copied are tokens that are used without reading a file again.
	copied map[Kind]string
}

func (f Files) path(k Kind) string {
	switch k {
	case Bound:
		return f.Bound
	case Legacy:
		return f.Legacy
	case WorkloadIdentity:
		return f.identity
	default:
		return f.ThirdParty
	}
}

// read returns the token that a file holds now.
func (f Files) read(k Kind) (string, error) {
	if bearer, ok := f.copied[k]; ok {
		return bearer, nil
	}
	data, err := os.ReadFile(f.path(k))
	if err != nil {
		return "", fmt.Errorf("reading the %s token: %w", k, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// user uses tokens at one API server, or at the STS.
type user struct {
	server   string
	http     *http.Client
	files    Files
	audience string
	// identity exchanges tokens at the STS.
	identity *identity
	// secret reads the token that the Secret of the legacy token holds now; nil: there is none to read.
	secret func(context.Context) (string, error)
	rec    *recorder
	// learned means that it is known whether /readyz is readable without a token.
	learned, readable bool
}

// answer is what a server says about a token. An error is not an answer.
type answer struct {
	// accepted or refused, and why.
	accepted bool
	reason   string
	// kind and bearer are of the token that the answer is about: reviewing a token requires another one, and Google's
	// library reads the token to exchange from the file, perhaps a moment later.
	kind   Kind
	bearer string
}

// use reads the token of a kind and uses it once. After a refusal it reads the file again, and retries if that holds
// another token.
func (u *user) use(ctx context.Context, kind Kind) {
	refused, a := u.try(ctx, kind)
	if refused == "" || a.accepted {
		return
	}
	if now, err := u.files.read(kind); err != nil || now == refused {
		return
	}
	u.rec.recordStaleFile(kind, u.server)
	u.try(ctx, kind)
}

// try reads the token of a kind and uses it once. It returns the token if there was an answer about it.
func (u *user) try(ctx context.Context, kind Kind) (string, answer) {
	bearer, err := u.files.read(kind)
	if err != nil {
		u.record(ctx, kind, "", unavailable, err.Error())
		return "", answer{}
	}
	u.noteFile(kind, bearer)
	a, err := u.ask(ctx, kind, bearer)
	if err != nil {
		u.record(ctx, kind, keyID(bearer), unavailable, err.Error())
		return "", answer{}
	}
	if !a.accepted && !u.ready(ctx, kind) {
		u.record(ctx, a.kind, keyID(a.bearer), unavailable, a.reason+", by an API server that is not ready")
		return "", answer{}
	}
	result := accepted
	if a.accepted {
		u.learn(ctx, kind)
	} else {
		result = u.judge(ctx, a)
	}
	u.record(ctx, a.kind, keyID(a.bearer), result, a.reason)
	if a.kind != kind { // nothing was said about the token to be reviewed
		return "", answer{}
	}
	return a.bearer, a
}

// secretTimeout is how long a probe asks which token a Secret holds, while API servers come and go.
const secretTimeout = 10 * time.Second

// judge returns what a refusal means. A legacy token dies when its Secret is overwritten, and the file follows later.
// Only the Secret shows which of the two happened first, so it is read at once.
func (u *user) judge(ctx context.Context, a answer) result {
	if a.kind != Legacy || a.bearer == "" || u.secret == nil {
		return refused
	}
	asking, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	holds, err := u.secret(asking)
	for err != nil && !apierrors.IsNotFound(err) && asking.Err() == nil {
		select {
		case <-asking.Done():
		case <-time.After(100 * time.Millisecond):
			holds, err = u.secret(asking)
		}
	}
	switch {
	case ctx.Err() != nil:
		return unavailable // nobody knows any more
	case apierrors.IsNotFound(err), err == nil && holds != a.bearer:
		return overwritten
	}
	return refused
}

// ready reports whether an API server does not deny being ready. Until its caches are filled, it looks up service
// accounts and pods one by one, and answers 401 if it cannot, because etcd does not answer. This says nothing about the
// token, and no load balancer would have sent the request there. It may not even know who may read /readyz; if that
// could be read before, only ok counts.
func (u *user) ready(ctx context.Context, kind Kind) bool {
	if kind == WorkloadIdentity {
		return true
	}
	status := u.readyz(ctx)
	if u.readable {
		return status == http.StatusOK
	}
	return status != 0 && status < http.StatusInternalServerError
}

// learn checks once, when the API server works, whether /readyz can be read without a token.
func (u *user) learn(ctx context.Context, kind Kind) {
	if kind != WorkloadIdentity && !u.learned {
		u.learned, u.readable = true, u.readyz(ctx) == http.StatusOK
	}
}

// readyz returns the status of the API server's answer, or 0.
func (u *user) readyz(ctx context.Context) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.server+"/readyz", nil)
	if err != nil {
		return 0
	}
	answer, err := u.http.Do(request)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

// record counts a use, unless the probe was stopped during it.
func (u *user) record(ctx context.Context, kind Kind, kid string, result result, reason string) {
	if result == unavailable && ctx.Err() != nil {
		return
	}
	u.rec.record(use{Kind: kind, Server: u.server, KeyID: kid, Result: result, Reason: reason, At: time.Now()})
}

func (u *user) noteFile(kind Kind, bearer string) {
	u.rec.mounted(kind, keyID(bearer))
	if h, ok := heldBy(bearer); ok {
		u.rec.holds(kind, h)
	}
	if kind == Legacy {
		u.rec.fileRead(bearer, time.Now())
	}
}

// heldBy reads the claims of a token; false if it is not a token.
func heldBy(bearer string) (Held, bool) {
	header, claims, err := token.ParseUnverified(bearer)
	if err != nil {
		return Held{}, false
	}
	h := Held{KeyID: header.KeyID, Subject: claims.Subject, Audiences: claims.Audience}
	if claims.Expiry != 0 {
		h.Expires = claims.Expiry.Time()
	}
	if k := claims.Kubernetes; k != nil && k.Pod != nil {
		h.PodName, h.PodUID = k.Pod.Name, k.Pod.UID
	}
	return h, true
}

// keyID returns the kid of a token, or "" if it has none or is no token.
func keyID(bearer string) string {
	kid, err := token.KeyID(bearer)
	if err != nil {
		return ""
	}
	return kid
}

// ask asks the server about a token.
func (u *user) ask(ctx context.Context, kind Kind, bearer string) (answer, error) {
	if bearer == "" { // a request without a token would be anonymous, and not about any token
		return answer{kind: kind, reason: "the file is empty"}, nil
	}
	switch kind {
	case ThirdParty:
		return u.review(ctx, bearer)
	case WorkloadIdentity:
		return u.identity.use(ctx, bearer)
	default:
		a, err := u.whoami(ctx, bearer)
		a.kind, a.bearer = kind, bearer
		return a, err
	}
}

// whoami uses the token for the cheapest request that needs one and changes nothing.
func (u *user) whoami(ctx context.Context, bearer string) (answer, error) {
	var review authenticationv1.SelfSubjectReview
	status, err := u.post(ctx, "selfsubjectreviews", bearer, &review)
	switch {
	case err != nil:
		return answer{}, err
	case status == http.StatusUnauthorized:
		return answer{reason: "401 Unauthorized"}, nil
	case status == http.StatusForbidden:
		return answer{accepted: true}, nil // it knows who we are
	case review.Status.UserInfo.Username == anonymous:
		return answer{reason: "taken for " + anonymous}, nil
	}
	return answer{accepted: true}, nil
}

// review makes the API server check a token for an audience that is not its own, authenticated with the bound token.
func (u *user) review(ctx context.Context, bearer string) (answer, error) {
	bound, err := u.files.read(Bound)
	if err != nil {
		return answer{}, err
	}
	review := authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: bearer, Audiences: []string{u.audience}},
	}
	status, err := u.post(ctx, "tokenreviews", bound, &review)
	switch {
	case err != nil:
		return answer{}, err
	case status == http.StatusUnauthorized:
		return answer{kind: Bound, bearer: bound, reason: "401 Unauthorized, for a TokenReview"}, nil
	case status == http.StatusForbidden:
		return answer{}, errors.New("the probe may not make a TokenReview")
	case !review.Status.Authenticated:
		return answer{kind: ThirdParty, bearer: bearer, reason: "not authenticated: " + review.Status.Error}, nil
	}
	return answer{kind: ThirdParty, bearer: bearer, accepted: true}, nil
}

// post sends a review to the API server, and decodes its answer into it if the status is 201. It returns a status that
// is about the token; any other is an error.
func (u *user) post(ctx context.Context, resource, bearer string, review any) (int, error) {
	body, err := encode(review)
	if err != nil {
		return 0, err
	}
	url := u.server + "/apis/authentication.k8s.io/v1/" + resource
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	resp, err := u.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return resp.StatusCode, nil
	case http.StatusCreated:
		if err := json.Unmarshal(answer, review); err != nil {
			return 0, fmt.Errorf("decoding the answer of %s: %w", url, err)
		}
		return resp.StatusCode, nil
	default:
		return 0, fmt.Errorf("%s answered %s", url, resp.Status)
	}
}

// encode encodes a review, which must name its type.
func encode(review any) ([]byte, error) {
	version := authenticationv1.SchemeGroupVersion.String()
	switch r := review.(type) {
	case *authenticationv1.SelfSubjectReview:
		r.TypeMeta = metav1.TypeMeta{APIVersion: version, Kind: "SelfSubjectReview"}
	case *authenticationv1.TokenReview:
		r.TypeMeta = metav1.TypeMeta{APIVersion: version, Kind: "TokenReview"}
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, errors.New("encoding a review") // the cause may quote the token
	}
	return body, nil
}
