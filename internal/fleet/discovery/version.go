package discovery

import (
	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azureobject "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"gocloud.dev/blob"
)

// version distinguishes one write of an object in a bucket from the next.
type version struct {
	etag       string
	generation int64 // Google's stores compare this instead of entity tags
}

func versionOf(a *blob.Attributes) version {
	v := version{etag: a.ETag}
	var google storage.ObjectAttrs
	if a.As(&google) {
		v.generation = google.Generation
	}
	return v
}

// unchanged is a blob.WriterOptions.BeforeWrite: the store refuses the write if the object has changed since it was
// read. It does nothing for an object that did not exist, for which blob.WriterOptions.IfNotExist is used.
func (o object) unchanged(as func(any) bool) error {
	if !o.found {
		return nil
	}
	var (
		amazon *transfermanager.UploadObjectInput
		azure  *azblob.UploadStreamOptions
		google **storage.ObjectHandle
	)
	switch {
	case as(&amazon):
		amazon.IfMatch = &o.version.etag
	case as(&azure):
		etag := azcore.ETag(o.version.etag)
		azure.AccessConditions = &azblob.AccessConditions{
			ModifiedAccessConditions: &azureobject.ModifiedAccessConditions{IfMatch: &etag},
		}
	case as(&google):
		*google = (*google).If(storage.Conditions{GenerationMatch: o.version.generation})
	}
	return nil
}
