package discovery_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sasToken is a credential that the Azure library sends as parameters of each request.
const sasToken = "sv=2026-01-01&sp=rcwd&sig=hunter2"

// azure is the small part of the protocol of Azure Blob Storage that a bucket uses. Nothing in Go speaks it.
type azure struct {
	mu    sync.Mutex
	blobs map[string]azureBlob // by path
	puts  int
}

type azureBlob struct {
	header http.Header
	data   []byte
}

func (a *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, found := a.blobs[r.URL.Path]
	switch {
	case r.URL.Query().Get("sig") != "hunter2":
		w.Header().Set("x-ms-error-code", "AuthenticationFailed")
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPut && found && r.Header.Get("If-None-Match") == "*":
		w.Header().Set("x-ms-error-code", "BlobAlreadyExists")
		w.WriteHeader(http.StatusConflict)
	case r.Method == http.MethodPut && r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != b.header.Get("Etag"):
		w.Header().Set("x-ms-error-code", "ConditionNotMet")
		w.WriteHeader(http.StatusPreconditionFailed)
	case r.Method == http.MethodPut:
		a.puts++
		data, _ := io.ReadAll(r.Body)
		h := http.Header{}
		h.Set("Content-Type", r.Header.Get("x-ms-blob-content-type"))
		h.Set("Cache-Control", r.Header.Get("x-ms-blob-cache-control"))
		h.Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		h.Set("X-Ms-Creation-Time", h.Get("Last-Modified"))
		h.Set("Etag", `"`+strconv.Itoa(a.puts)+`"`)
		a.blobs[r.URL.Path] = azureBlob{header: h, data: data}
		w.WriteHeader(http.StatusCreated)
	case r.URL.Query().Get("comp") == "list":
		a.list(w, r.URL.Path+"/", r.URL.Query().Get("prefix"))
	case !found:
		w.Header().Set("x-ms-error-code", "BlobNotFound")
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodDelete:
		delete(a.blobs, r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	default:
		maps.Copy(w.Header(), b.header)
		w.Header().Set("Content-Length", strconv.Itoa(len(b.data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(b.data)
		}
	}
}

// list answers with the names below a prefix in one container.
func (a *azure) list(w http.ResponseWriter, container, prefix string) {
	_, _ = io.WriteString(w, `<?xml version="1.0"?><EnumerationResults><Blobs>`)
	for _, path := range slices.Sorted(maps.Keys(a.blobs)) {
		name, within := strings.CutPrefix(path, container)
		if !within || !strings.HasPrefix(name, prefix) {
			continue
		}
		b := a.blobs[path]
		_, _ = fmt.Fprintf(w, `<Blob><Name>%s</Name><Properties><Last-Modified>%s</Last-Modified>`+
			`<Content-Length>%d</Content-Length></Properties></Blob>`,
			name, b.header.Get("Last-Modified"), len(b.data))
	}
	_, _ = io.WriteString(w, `</Blobs></EnumerationResults>`)
}

// azureServer outlives the tests: the Azure library reads its environment once in the life of a process.
var azureServer = sync.OnceValues(func() (*gates, string) {
	s := &gates{store: &azure{blobs: map[string]azureBlob{}}, all: map[string]*gate{}}
	return s, httptest.NewServer(s).Listener.Addr().String()
})

// startAzure starts a store like Azure's, and returns what makes containers in it.
func startAzure(t *testing.T) func(*testing.T) place {
	s, host := azureServer()
	t.Setenv("AZURE_STORAGE_ACCOUNT", "keyturn")
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", sasToken)
	t.Setenv("AZURE_STORAGE_DOMAIN", host)
	t.Setenv("AZURE_STORAGE_PROTOCOL", "http")
	return func(*testing.T) place {
		container, g := s.add()
		return place{url: "azblob://" + container + "?prefix=blue/", gate: g}
	}
}
