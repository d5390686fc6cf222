package kubeconfig

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// fetch gets a body of so many bytes by a transport that takes 1,000.
func fetch(t *testing.T, length int) (string, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", length))
	}))
	defer server.Close()
	client := &http.Client{Transport: bounded{next: http.DefaultTransport, most: 1000}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestBound(t *testing.T) {
	for _, length := range []int{0, 1, 999, 1000} {
		if body, err := fetch(t, length); len(body) != length || err != nil {
			t.Errorf("of %d bytes, %d were read: %v", length, len(body), err)
		}
	}
	for _, length := range []int{1001, 100_000} {
		if body, err := fetch(t, length); len(body) != 1000 || err == nil {
			t.Errorf("of %d bytes, %d were read: %v", length, len(body), err)
		}
	}
}

// TestEndlessAnswer asks an API server that never ends its list.
func TestEndlessAnswer(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, `{"kind":"NodeList","apiVersion":"v1","items":[`)
		for err == nil {
			_, err = io.WriteString(w, strings.Repeat(" ", 1<<10))
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next: next, most: 1 << 20} })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	const want = "the answer is longer than 1048576 bytes"
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("list = %v, want %q", err, want)
	}
	<-ended
}
