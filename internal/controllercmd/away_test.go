package controllercmd

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestStartsWhileItsAPIServerIsAway starts a controller whose API server begins to serve only once it was waited for.
func TestStartsWhileItsAPIServerIsAway(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	away := rest.CopyConfig(config)
	away.Host = "https://" + address
	f, err := parse([]string{"--leader-elect=false"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	waits := &firstWrite{then: func() { forward(t, address, server.Host) }}
	options := f.manager.managerOptions("0", "")
	if _, err := newManager(t.Context(), away, options, slog.New(slog.NewTextHandler(waits, nil))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(waits.text, "waiting for the API server") {
		t.Errorf("said %q", waits.text)
	}
}

// firstWrite calls a function at the first write.
type firstWrite struct {
	text string
	then func()
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.text == "" {
		w.then()
	}
	w.text += string(p)
	return len(p), nil
}

// forward lets what connects to one address reach another one.
func forward(t *testing.T, from, to string) {
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go pipe(in, out)
			go pipe(out, in)
		}
	}()
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
}
