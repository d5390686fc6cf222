package dashboard

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

const (
	testAddress = "127.0.0.1:4321"
	testToken   = "TOKEN"
)

func testHandler() http.Handler {
	f := newFeed()
	f.replace([]v1alpha1.UserCluster{named("blue", "1")}, testRow)
	s := &Server{Row: testRow, Detail: func(uc *v1alpha1.UserCluster) Detail { return Detail{Row: testRow(uc)} }}
	return s.handler(f, testAddress, testToken)
}

func named(name, version string) v1alpha1.UserCluster {
	return v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, ResourceVersion: version}}
}

func testRow(uc *v1alpha1.UserCluster) Row {
	return Row{Namespace: uc.Namespace, Name: uc.Name, Revision: uc.ResourceVersion}
}

// Only GET, only with the token, and only for a host that leads to this machine without a name server.
func TestGuard(t *testing.T) {
	for _, test := range []struct {
		name, method, host, path string
		code                     int
	}{
		{"page", "GET", testAddress, "/TOKEN/", 200},
		{"localhost", "GET", "localhost:4321", "/TOKEN/", 200},
		{"cluster", "GET", testAddress, "/TOKEN/clusters/team-a/blue", 200},
		{"script", "GET", testAddress, "/TOKEN/page/main.js", 200},
		{"another cluster", "GET", testAddress, "/TOKEN/clusters/team-a/red", 404},
		{"another namespace", "GET", testAddress, "/TOKEN/clusters/team-b/blue", 404},
		{"another file", "GET", testAddress, "/TOKEN/page/../handler.go", 307},
		{"no token", "GET", testAddress, "/", 403},
		{"part of the token", "GET", testAddress, "/TOKE/", 403},
		{"token in lower case", "GET", testAddress, "/token/", 403},
		{"a name that leads here", "GET", "rebound.example:4321", "/TOKEN/", 421},
		{"another port", "GET", "127.0.0.1:80", "/TOKEN/", 421},
		{"no host", "GET", "", "/TOKEN/", 421},
		{"post", "POST", testAddress, "/TOKEN/clusters/team-a/blue", 405},
		{"delete", "DELETE", testAddress, "/TOKEN/clusters/team-a/blue", 405},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, "http://"+testAddress+test.path, nil)
			r.Host = test.host
			w := httptest.NewRecorder()
			testHandler().ServeHTTP(w, r)
			if w.Code != test.code {
				t.Errorf("status %d, want %d: %s", w.Code, test.code, w.Body)
			}
			for name, want := range map[string]string{
				"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
				"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
			} {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

// The page names no other host, and has no way to turn text into markup.
func TestPageIsSafe(t *testing.T) {
	page, err := fs.Sub(embedded, "page")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := regexp.MustCompile(`https?://|style="| on[a-z]+="|` +
		`\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function)\b`)
	files := 0
	err = fs.WalkDir(page, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := fs.ReadFile(page, path)
		text := strings.ReplaceAll(string(data), `xmlns="http://www.w3.org/2000/svg"`, "")
		if found := forbidden.FindAllString(text, -1); len(found) > 0 {
			t.Errorf("%s has %q", path, found)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files were read: %v", files, err)
	}
}
