// Command caller is what the pods of tests run. "caller serve" answers every HTTP request. "caller get URL [TEXT]" asks
// a URL, with the pod's token if it is https, and ends when the answer is 200 and holds the text.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const credentials = "/var/run/secrets/kubernetes.io/serviceaccount/"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		server := http.Server{Addr: ":8080", Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Second}
		return server.ListenAndServe()
	case len(args) > 1 && args[0] == "get":
		return get(args[1], strings.Join(args[2:], " "))
	}
	return errors.New("usage: caller serve | get URL [TEXT]")
}

// answer tells the client which address it is seen from.
func answer(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "hello %s", host)
}

func get(url, text string) error {
	client, token, err := clientFor(url)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Println(response.Status, string(body))
	if response.StatusCode != http.StatusOK || !strings.Contains(string(body), text) {
		return fmt.Errorf("%s: want 200 and %q", url, text)
	}
	return nil
}

func clientFor(url string) (*http.Client, string, error) {
	client := &http.Client{Timeout: 2 * time.Second}
	if !strings.HasPrefix(url, "https:") {
		return client, "", nil
	}
	token, err := os.ReadFile(credentials + "token")
	if err != nil {
		return nil, "", err
	}
	ca, err := os.ReadFile(credentials + "ca.crt")
	if err != nil {
		return nil, "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return client, string(token), nil
}
