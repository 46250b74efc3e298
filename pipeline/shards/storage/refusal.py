"""What an object store's error says, in one line."""

import re


def reason_of(error: Exception) -> str:
    """Return an error's text without obstore's dump, with the store's own words from its XML.

    Where the text says nothing, the error's type and HTTP status do.
    """
    whole = str(error)
    text = re.sub(r"^Generic \w+ error:", "", whole).partition("\n\nDebug source")[0]
    said = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    text = " ".join(re.split(r":?\s*<(?:[?!]|\w+>)", text)[0].split()).strip(" :")
    text = text or type(error).__name__
    status = re.search(r"\bstatus: (\d{3})", whole)
    if status and status[1] not in text:
        text += f", status {status[1]}"
    causes = said.groups() if said else re.findall(r'message: "(.+?)"', whole)
    words = ", ".join(word for word in causes if word and word not in text)
    return f"{text}: {words}" if words else text
