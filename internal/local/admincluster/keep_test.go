package admincluster

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestAdminNewsAreToldOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	news := news{log: log}
	for _, text := range []string{"", "", "one", "one", "one", "two", "", "", "one"} {
		var err error
		if text != "" {
			err = errors.New(text)
		}
		news.tell(err)
	}
	const want = `level=ERROR msg="the admin cluster is not kept up" error=one
level=ERROR msg="the admin cluster is not kept up" error=two
level=INFO msg="the processes of the admin cluster can be started again"
level=ERROR msg="the admin cluster is not kept up" error=one
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
