package localcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// guard allows reading by users whom the admin cluster authenticates by a bearer token, and authorizes to get the path.
type guard struct {
	admin func() (*rest.Config, error)
	log   *slog.Logger
}

func (g guard) protect(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			http.Error(w, "a bearer token of the admin cluster is needed", http.StatusUnauthorized)
			return
		}
		status, err := g.judge(r.Context(), bearer, r.URL.Path)
		if err != nil {
			g.log.Warn("cannot check who may read metrics", "error", err)
		}
		if status != http.StatusOK {
			http.Error(w, http.StatusText(status), status)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// judge returns the HTTP status for the holder of a token, and an error if that cannot be determined.
func (g guard) judge(ctx context.Context, bearer, path string) (int, error) {
	cfg, err := g.admin()
	if err != nil {
		return http.StatusServiceUnavailable, fmt.Errorf("reaching the admin cluster: %w", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return http.StatusServiceUnavailable, fmt.Errorf("reaching the admin cluster: %w", err)
	}
	who, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: bearer},
	}, metav1.CreateOptions{})
	if err != nil {
		return http.StatusServiceUnavailable, errors.New("reviewing a token at the admin cluster failed")
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	may, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra(user.Extra),
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
		},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusServiceUnavailable, fmt.Errorf("asking the admin cluster what %s may do: %w", user.Username, err)
	case !may.Status.Allowed:
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}

func extra(of map[string]authenticationv1.ExtraValue) map[string]authorizationv1.ExtraValue {
	all := map[string]authorizationv1.ExtraValue{}
	for k, v := range of {
		all[k] = authorizationv1.ExtraValue(v)
	}
	return all
}
